/* SPDX-License-Identifier: MIT */
/* A guest in one sector, for hosts whose KVM cannot boot Linux: checks its memory for ever, and says so on the serial
 * port. Each page from 2 MiB up to TOP_MIB holds, in its first, middle and last word, its address XOR the version of
 * this pass. The version lives in a register, so in the device state: a page that is stale, lost or misplaced
 * disagrees with it.
 *
 *   R   once, when all pages are written
 *   .   about every millisecond of its time stamp counter, if it got at least a page further
 *   B   for each bad page; it is mended, so each is counted once
 */
#ifndef TOP_MIB
#define TOP_MIB 48
#endif
#define PAGE   4096
#define BASE   (2 << 20)
#define TOP    (TOP_MIB << 20)
#define NPAGES ((TOP - BASE) / PAGE)
#define STRIDE 7919 /* pages; a prime: visits every page once in each pass, in an order that is hard to guess */
#define TICK   (1 << 21)
#define GOLDEN 0x9e3779b1 /* odd: the versions differ for 2^32 passes */
#define COM1   0x3f8
#define LSR    (COM1 + 5)

#if TOP_MIB < 34 || NPAGES % STRIDE == 0
#error "TOP_MIB: at least 34, so that there are more pages than STRIDE, and not a multiple of STRIDE"
#endif

	.code16
	.globl _start
_start:
	cli
	xorw %ax, %ax
	movw %ax, %ds
	inb $0x92, %al /* A20: SeaBIOS has it on, others may not */
	orb $2, %al
	andb $0xfe, %al
	outb %al, $0x92
	lgdt gdt_pointer
	movl %cr0, %eax
	orb $1, %al
	movl %eax, %cr0
	ljmp $8, $protected

	.code32
protected:
	movw $16, %ax
	movw %ax, %ds
	movw %ax, %es
	movw %ax, %ss
	movl $0x7c00, %esp

	/* ebx version, ecx the next one, edx address, edi pages left in this pass, ebp time of the last '.' */
	xorl %ebx, %ebx
	movl $BASE, %edx
1:	movl %edx, %eax
	movl %eax, (%edx)
	movl %eax, PAGE/2(%edx)
	movl %eax, PAGE-4(%edx)
	addl $PAGE, %edx
	cmpl $TOP, %edx
	jb 1b
	movb $'R', %al
	call putc

	movl $BASE, %edx
	xorl %ebp, %ebp
pass:	movl $NPAGES, %edi
	leal GOLDEN(%ebx), %ecx
step:	movl %edx, %eax
	xorl %ebx, %eax
	cmpl %eax, (%edx)
	jne bad
	cmpl %eax, PAGE/2(%edx)
	jne bad
	cmpl %eax, PAGE-4(%edx)
	jne bad
next:	movl %edx, %eax
	xorl %ecx, %eax
	movl %eax, (%edx)
	movl %eax, PAGE/2(%edx)
	movl %eax, PAGE-4(%edx)
	addl $STRIDE*PAGE, %edx
	cmpl $TOP, %edx
	jb 1f
	subl $TOP-BASE, %edx
1:	movl %edx, %esi
	rdtsc
	movl %esi, %edx
	subl %ebp, %eax
	cmpl $TICK, %eax
	jb 1f
	addl %eax, %ebp
	movb $'.', %al
	call putc
1:	decl %edi
	jnz step
	movl %ecx, %ebx
	jmp pass

bad:	movb $'B', %al
	call putc
	jmp next

/* al -> the serial port, once it has room */
putc:
	movl %edx, %esi
	movb %al, %ah
	movw $LSR, %dx
1:	inb %dx, %al
	testb $0x20, %al
	jz 1b
	movb %ah, %al
	movw $COM1, %dx
	outb %al, %dx
	movl %esi, %edx
	ret

	.balign 8
gdt:	.quad 0
	.quad 0x00cf9a000000ffff /* code, 0 to 4 GiB */
	.quad 0x00cf92000000ffff /* data, the same */
gdt_pointer:
	.word gdt_pointer - gdt - 1
	.long gdt

	.org 510
	.word 0xaa55
