/* SPDX-License-Identifier: MIT */
/* Faults of a KVM vCPU (which come from the kernel) arrive on the uffd; when the handler dies with
 * one in hand, the vCPU waits, WAKE by the next holder makes it fault again, and the guest goes on.
 * Seen on 6.18.
 */
#include "ktest.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_LEN	 (16 * KT_PAGE)
#define CODE_GPA 0x1000

/* Real mode: output the bytes at 0x2000 and 0x3000, add one to the byte at 0x4000, halt. */
static const uint8_t guest_code[] = { 0xa0, 0x00, 0x20, 0xe6, 0x10, 0xa0, 0x00, 0x30,
				      0xe6, 0x10, 0xfe, 0x06, 0x00, 0x40, 0xf4 };

struct vcpu {
	int fd;
	struct kvm_run *run;
	uint8_t out[8];
	int nout;
};

static void vcpu_open(struct vcpu *v, uint8_t *ram)
{
	struct kvm_userspace_memory_region r = { .memory_size = RAM_LEN,
						 .userspace_addr = (uintptr_t)ram };
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = CODE_GPA, .rflags = 2 };
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm;
	long len;

	if (kvm < 0)
		kt_skip("no /dev/kvm: %s", strerror(errno));
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		kt_skip("KVM_CREATE_VM: %s", strerror(errno));
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000ul); /* Intel wants it */
	kt_must(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &r), "KVM_SET_USER_MEMORY_REGION");
	v->fd = (int)kt_must(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	len = kt_must(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
	v->run = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	kt_must(v->run == MAP_FAILED ? -1 : 0, "mmap of the vCPU");
	kt_must(ioctl(v->fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	kt_must(ioctl(v->fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	kt_must(ioctl(v->fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
}

static void vcpu_run(void *arg)
{
	struct vcpu *v = arg;

	for (;;) {
		kt_must(ioctl(v->fd, KVM_RUN, 0), "KVM_RUN");
		if (v->run->exit_reason == KVM_EXIT_HLT)
			return;
		if (v->run->exit_reason != KVM_EXIT_IO || v->nout == (int)sizeof(v->out))
			kt_fail("expected port output or halt, saw KVM exit %u",
				v->run->exit_reason);
		v->out[v->nout++] = ((uint8_t *)v->run)[v->run->io.data_offset];
	}
}

static _Noreturn void handler(int uffd, uint8_t *va, atomic_int *in_hand)
{
	kt_expect_fault(uffd, va, 0, "from the vCPU");
	atomic_store(in_hand, 1);
	for (;;)
		pause();
}

int main(void)
{
	static uint8_t src[KT_PAGE];
	struct vcpu v = { 0 };
	struct kt_thread t;
	atomic_int *in_hand;
	uint8_t *ram;
	int uffd;
	pid_t pid;

	kt_start();
	uffd = kt_uffd(0);
	in_hand = kt_shared(sizeof(*in_hand));
	ram = kt_map(kt_memfd(RAM_LEN, 0), RAM_LEN);
	memcpy(ram + CODE_GPA, guest_code, sizeof(guest_code));
	kt_register(uffd, ram, RAM_LEN, UFFDIO_REGISTER_MODE_MISSING);
	pid = kt_fork();
	if (!pid)
		handler(uffd, ram + 0x2000, in_hand);
	vcpu_open(&v, ram);
	kt_thread_start(&t, vcpu_run, &v);
	kt_wait_flag(in_hand, 1, "the handler to read the vCPU's fault");
	kt_kill(pid);
	kt_thread_wait_blocked(&t);
	kt_expect_silence(uffd, "again before WAKE");

	kt_must(kt_wake(uffd, ram, RAM_LEN), "UFFDIO_WAKE");
	kt_expect_fault(uffd, ram + 0x2000, 0, "again from the vCPU after WAKE");
	kt_fill(src, 0x11, KT_PAGE);
	kt_must(kt_copy(uffd, ram + 0x2000, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_expect_fault(uffd, ram + 0x3000, 0, "from the vCPU's second load");
	kt_fill(src, 0x22, KT_PAGE);
	kt_must(kt_copy(uffd, ram + 0x3000, src, KT_PAGE, 0, NULL), "UFFDIO_COPY");
	kt_expect_fault(uffd, ram + 0x4000, 0, "from the vCPU's store");
	kt_must(kt_zeropage(uffd, ram + 0x4000, KT_PAGE, NULL), "UFFDIO_ZEROPAGE");
	kt_thread_end(&t, "to its halt");
	kt_expect(v.nout == 2 && v.out[0] == 0x11 && v.out[1] == 0x22,
		  "expected the guest to read 0x11 and 0x22, saw %d bytes: 0x%x 0x%x", v.nout,
		  v.out[0], v.out[1]);
	kt_expect(ram[0x4000] == 1, "expected the guest's store, saw 0x%x", ram[0x4000]);
	kt_pass("vCPU faults delivered, one again after its handler died and WAKE; guest right");
}
