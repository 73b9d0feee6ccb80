/* SPDX-License-Identifier: MIT */
/* The life of one page at the destination, searched exhaustively: faults, arriving data, discards by the
 * VMM, and a pager that dies anywhere and is taken over.
 *
 * What stands for what:
 *   receiver       a thread that places: region_place_begin(), region_place_step() (src/umem/region.c)
 *   fault_thread   read_events(), take_remove() and answer() of umem_get_requests() (src/umem/requests.c)
 *   discard_stage  dest_discard(), umem_discard(): the end of the stages before the guest runs here
 *   takeover       umem_takeover(), after every thread of the predecessor is gone
 *   guest, vmm     threads of the VMM: vCPUs, and the balloon's discard (fallocate, then madvise)
 * A step is one system call, one atomic access to pages.map or one lock operation. d_step and atomic stand
 * only where the kernel or the CPU is atomic as well (and around ghost variables, which only specify).
 *
 * The source is folded into the receivers: a frame in flight is one that a receiver may take at any later
 * time. `asked` is answered at least once; SPARE frames come unasked (background, duplicates), at any
 * time. A new pager gets both again: the source has reset what it sent.
 *
 * What the guest may see is the set `legal`:
 *   - what the source had, until the first discard; then zeros or its own later write;
 *   - while a discard has begun and not returned: either, but never back again;
 *   - a read or a write fixes the value until the guest changes it or gives the page up again.
 * Exceptions, and nothing else (they are exact: see takeover and crash):
 *   E1  a page placed, not yet recorded, discarded, its pager dead: it is asked for again. Only until the
 *       discard returns: it returns after its REMOVE was read, and that sets the bits.
 *   E2  a REMOVE read by a pager that died before both bits were set: what the source had may come back.
 *   E3  a second mapping (not the one that discards) may see the old content until the fault thread has
 *       punched: DONTNEED unmaps the page in the VMM only, and it returns when the event has been read.
 *
 * Left out: several pages in one message or one COPY; ENOMEM; overwriting before RUN (epochs.pml); VMMs
 * whose discard keeps the content; discards without any event (QEMU's of hugetlb: a punch alone); private
 * memory; END.
 *
 * Rules that were found here and are easily lost:
 *   - The fault thread punches a removed range under the exclusive lock and before it sets the bits. Bits
 *     first, and a pager that dies in between leaves late data that look arrived (BUG_PUNCH_AFTER_BITS).
 *   - Takeover looks at holes too: a hole is claimed while it is filled (BUG_TAKEOVER_SKIPS_HOLES).
 *   - Faults do not starve behind placers that say EAGAIN for ever (BUG_NO_WRITER_PREFERENCE; liveness).
 *   - The WAKE of a dropped frame and the WAKE of a REMOVE stand in for each other: one of them is enough.
 *   - COPY may wake its own mapping by itself (COPY_WAKES): who faults after that cannot be read before
 *     *arrived* is set, for the placer holds the lock. Other mappings need their WAKE.
 *
 * Shapes: GUESTS (threads at the VMM's mapping), OPS (accesses of each), SECOND (a reader at a second
 * mapping), RECEIVERS, DISCARDS, CRASHES, SPARE; URGENT (the fault thread places what it asked for, as
 * the urgent connection does), STAGES (from before DISCARD on), HOLE (the source has a hole), ZEROS (the
 * source finds zeros: FRAME_ZERO), COPY_WAKES. Each BUG_ takes one rule away, and an error must be found;
 * each STRICT_ takes an exception away, to show that it is one.
 */
#ifndef GUESTS
#define GUESTS 1
#endif
#ifndef OPS
#define OPS 2
#endif
#ifndef RECEIVERS
#define RECEIVERS 2
#endif
#ifndef DISCARDS
#define DISCARDS 1
#endif
#ifndef CRASHES
#define CRASHES 0
#endif
#ifndef SPARE
#define SPARE 1
#endif

#ifdef SECOND
#define THREADS (GUESTS + 1)
#define MAPS 2
#else
#define THREADS GUESTS
#define MAPS 1
#endif
#define VM 0			/* the VMM's mapping; the second is 1 */

/* Threads of the pager. */
#ifdef STAGES
#define PAGER_THREADS (RECEIVERS + 2)
#else
#define PAGER_THREADS (RECEIVERS + 1)
#endif

/* Contents, as bits of `legal`. A write of a guest thread has a bit of its own. */
#define ZERO 1
#define SRC 2
#define OLD 4			/* of an older pass: punched by DISCARD */
#define WRITTEN(thread, op) (8 << (((thread) * 2 + (op) % 2) % 5))

#if defined(HOLE) || defined(ZEROS)
#define SOURCE_HAS ZERO
#else
#define SOURCE_HAS SRC
#endif

/* --- the kernel --- */
#define NONE 0
#define MISSING 1		/* queued, unread */
#define MINOR 2
#define TAKEN 3			/* read by a pager; sleeps until WAKE */
bool cached;			/* in the page cache */
byte content;			/* if cached */
bool mapped[MAPS];
bool changing;			/* mmap_changing of the VMM: COPY, ZEROPAGE, CONTINUE say EAGAIN */
bool event;			/* a REMOVE is queued, unread */
byte fault[THREADS];

/* --- pages.map: outlives the pager --- */
bool claimed, arrived;
bool data = 1;			/* PAGE_DATA: the source has it, and it is not known to be zeros */
bool live;			/* DISCARD is done */

/* --- the pager's own memory: dies with it --- */
bool alive = 1;
byte readers;			/* events_lock */
bool writer, writer_waits;
bool discard_lock;
bool asked;			/* a request the source will answer */
byte spare = SPARE;
bool got_missing, got_minor;	/* what the round of the fault thread has read */
bool rm;			/* a REMOVE was read, and not both of its bits are set */
bool punch_due;			/* a REMOVE was read, and its range not punched yet */

/* --- ghosts --- */
byte legal;
byte fresh;			/* written since the discard began */
bool discarding;		/* begun, not returned */
bool lost;			/* E2 happened while discarding */
bool placed;			/* the source's data were placed */
byte dead, crashes;

#define UNREAD(i) (fault[i] == MISSING || fault[i] == MINOR)
#ifdef SECOND
#define LAST_UNREAD UNREAD(GUESTS)
#else
#define LAST_UNREAD false
#endif
#if GUESTS > 1
#define ANY_UNREAD (UNREAD(0) || UNREAD(1) || LAST_UNREAD)
#else
#define ANY_UNREAD (UNREAD(0) || LAST_UNREAD)
#endif
#define READABLE (event || ANY_UNREAD)

#define LEGAL_NOW (legal | (lost -> SOURCE_HAS : 0))

/* UFFDIO_WAKE on one attachment: under the lock of its wait queues. */
inline wake_vm()
{
	d_step {
		fault[0] = NONE;
#if GUESTS > 1
		fault[1] = NONE;
#endif
	}
}

/* region_wake(): one ioctl for each attachment. */
inline wake()
{
	wake_vm();
#ifdef SECOND
	fault[GUESTS] = NONE;
#endif
}

/* fallocate(PUNCH_HOLE) of a page: out of the cache and of every mapping. */
inline punch()
{
	d_step {
		cached = 0;
		content = 0;
		mapped[VM] = 0;
#ifdef SECOND
		mapped[1] = 0;
#endif
	}
}

/* UFFDIO_ZEROPAGE with DONTWAKE; who calls it WAKEs whatever came out. */
inline zeropage(done)
{
	d_step {
		if
		:: !changing && !cached ->
			cached = 1;
			content = ZERO;
			mapped[VM] = 1;
			done = 1;
		:: else -> done = 0;
		fi;
	}
}

/* map_cached(): UFFDIO_CONTINUE on each attachment; EAGAIN, EEXIST and EFAULT (absent) change nothing. */
inline map_cached()
{
	d_step {
		if
		:: cached && !changing -> mapped[VM] = 1;
		:: else
		fi;
	}
#ifdef SECOND
	d_step {
		if
		:: cached -> mapped[1] = 1;
		:: else
		fi;
	}
#endif
}

/* atomic_fetch_or() */
inline claim(won)
{
	d_step {
		won = !claimed;
		claimed = 1;
	}
#ifdef BUG_NO_CLAIM
	won = 1;
#endif
}

inline lock_shared()
{
#ifdef BUG_NO_WRITER_PREFERENCE
	atomic { !writer -> readers++; }
#else
	atomic { !writer && !writer_waits -> readers++; }
#endif
}

inline lock_exclusive()
{
#ifdef BUG_NO_LOCK
	skip;
#else
	writer_waits = 1;
	atomic { readers == 0 -> writer = 1; writer_waits = 0; }
#endif
}

inline unlock_exclusive()
{
	writer = 0;
}

/* What placing comes to. */
#define DONE 0
#define AGAIN 1
#define DROPPED 2

/* UFFDIO_COPY with DONTWAKE, or waking in its own mapping (COPY_WAKES). */
inline copy(rc)
{
	d_step {
		if
		:: changing -> rc = AGAIN;
		:: !changing && cached -> assert(false);	/* EEXIST under our own claim */
		:: else ->
			assert(!placed);			/* never placed twice */
			placed = 1;
			cached = 1;
			content = SOURCE_HAS;
			mapped[VM] = 1;
			rc = DONE;
#ifdef COPY_WAKES
			fault[0] = NONE;
#if GUESTS > 1
			fault[1] = NONE;
#endif
#endif
		fi;
	}
}

/* region_place_step() for a page that we have claimed. On AGAIN the caller comes back. */
inline place_step(rc)
{
	lock_shared();
	if
#ifndef BUG_NO_ARRIVED_CHECK
	:: arrived -> rc = DROPPED;
#endif
#ifdef BUG_NO_ARRIVED_CHECK
	:: true ->
#else
	:: !arrived ->
#endif
		copy(rc);
		if
		:: rc == DONE -> arrived = 1;
		:: else
		fi;
	fi;
#ifdef BUG_LOCK_KEPT_ON_EAGAIN
	if
	:: rc == AGAIN -> !changing; d_step { rc = AGAIN; readers--; }
	:: else -> readers--;
	fi;
#else
	readers--;
#endif
	if
	:: rc == DONE ->
#ifndef COPY_WAKES
		wake_vm();
#endif
#if defined(SECOND) && !defined(BUG_NO_WAKE_ELSEWHERE)
		fault[GUESTS] = NONE;
#endif
		skip;
#ifdef BUG_NO_WAKE_ON_DROP
	:: rc == DROPPED -> skip;
#else
	:: rc == DROPPED -> wake();
#endif
	:: rc == AGAIN -> skip;
	fi;
}

/* A frame for this page has come: claim it, or drop it. */
inline place_begin(won)
{
	claim(won);
	if
	:: won -> skip;
#ifdef BUG_NO_WAKE_ON_DROP
	:: !won -> skip;
#else
	:: !won -> wake();
#endif
	fi;
}

/* --- the VMM --- */

#ifdef BUG_NO_MINOR
#define MINOR_REGISTERED false
#else
#define MINOR_REGISTERED true
#endif

/* One access that the CPU completes, by `thread` at `map`. A part of an atomic. */
inline access(thread, map, op)
{
	if
	:: map == VM && live ->	/* write */
		content = WRITTEN(thread, op);
		legal = content | (discarding -> ZERO : 0);
		fresh = (discarding -> content : 0);
	:: live && map == VM ->				/* read */
		assert(content & LEGAL_NOW);
		legal = content | (discarding -> ZERO : 0);
	:: live && map != VM ->				/* read, E3 */
#ifdef STRICT_E3
		assert(content & LEGAL_NOW);
#else
		assert(discarding || rm || punch_due || (content & LEGAL_NOW));
#endif
	:: !live -> skip;	/* the waiting VMM touches what is not the guest's yet */
	fi;
}

proctype guest(byte me; byte map)
{
	byte op, kind;

	do
	:: op == OPS -> break;
	:: atomic { op < OPS && mapped[map] -> access(me, map, op); op++; }
	:: atomic { op < OPS && !mapped[map] ->
			if
			:: cached && !MINOR_REGISTERED -> mapped[map] = 1;
			:: cached && MINOR_REGISTERED -> kind = MINOR;
			:: !cached -> kind = MISSING;
			fi;
		}
		/* handle_userfault() queues, then looks at the page table once more. */
		atomic {
			if
			:: kind != NONE && !mapped[map] -> fault[me] = kind;
			:: else
			fi;
			kind = NONE;
		}
		fault[me] == NONE;
	od;
}

/* ram_block_discard_range(): nothing tells us of the punch; the event comes with DONTNEED. */
proctype vmm()
{
	byte n;

end_idle:
	live;
	do
	:: break;		/* no more of them */
	:: atomic { n < DISCARDS -> n++; discarding = 1; fresh = 0; legal = legal | ZERO; }
		punch();
		atomic { changing = 1; event = 1; }
		!event;
		changing = 0;
		d_step {		/* zap, and back in the guest */
			mapped[VM] = 0;
			discarding = 0;
			legal = (legal & fresh) | ZERO | (lost -> SOURCE_HAS : 0);
			lost = 0;
		}
	od;
}

/* --- the pager --- */

#ifdef URGENT
#define IS_URGENT true
#else
#define IS_URGENT false
#endif
#define FRAME_HERE (asked && !IS_URGENT || live && spare > 0)

/* A thread ends wherever it stands when its process is killed; its successor starts anew. */
#if CRASHES > 0
#define DIES(forget) unless { atomic { !alive -> dead++; forget; } } \
	atomic { alive -> dead--; } \
	goto end_start;
#else
#define DIES(forget)
#endif

proctype receiver()
{
	bool won, requested;
	byte rc;

end_start:
	{
end_idle:	do
		:: atomic { live && spare > 0 -> spare--; }	/* not sent after all: -n */
		:: atomic { FRAME_HERE ->
				if
				:: asked && !IS_URGENT -> asked = 0; requested = 1;
				:: live && spare > 0 -> spare--;
				fi;
			}
#ifdef ZEROS
			if
			:: requested ->
#endif
			place_begin(won);
			if
			:: won ->
				rc = AGAIN;
				do
				:: rc == AGAIN -> place_step(rc);
				:: else -> break;
				od;
			:: else
			fi;
#ifdef ZEROS
			:: else		/* FRAME_ZERO in background fills nothing */
			fi;
			data = 0;	/* forget() */
			wake();
#endif
			atomic { won = 0; rc = 0; requested = 0; }
		od;
	} DIES(won = 0; rc = 0; requested = 0)
}

/* read_uffd(): the kernel hands out faults before events; read on until there is nothing. */
inline read_all()
{
	do
	:: atomic { UNREAD(0) ->
			got_missing = got_missing || fault[0] == MISSING;
			got_minor = got_minor || fault[0] == MINOR;
			fault[0] = TAKEN; }
#if THREADS > 1
	:: atomic { UNREAD(1) ->
			got_missing = got_missing || fault[1] == MISSING;
			got_minor = got_minor || fault[1] == MINOR;
			fault[1] = TAKEN; }
#endif
#if THREADS > 2
	:: atomic { UNREAD(2) ->
			got_missing = got_missing || fault[2] == MISSING;
			got_minor = got_minor || fault[2] == MINOR;
			fault[2] = TAKEN; }
#endif
	:: atomic { !ANY_UNREAD && event -> event = 0; rm = 1; punch_due = 1; }
	:: !READABLE -> break;
	od;
}

inline empty_range()
{
#ifndef BUG_NO_PUNCH
	punch();
#endif
	punch_due = 0;
}

/* page_removed(): two atomic ORs. Pages that the source does not have are left alone. */
inline set_removed_bits()
{
	if
	:: data -> claimed = 1; arrived = 1;
	:: else
	fi;
	rm = 0;
}

/* read_events(). */
inline read_events()
{
	lock_exclusive();
	read_all();
	if
	:: rm ->
#ifdef BUG_PUNCH_AFTER_BITS
		set_removed_bits();
		unlock_exclusive();
		empty_range();
#else
		empty_range();
		set_removed_bits();
		unlock_exclusive();
#endif
#ifndef BUG_NO_WAKE_ON_REMOVE
		wake();
#endif
	:: else -> unlock_exclusive();
	fi;
}

/* answer() for one fault that was read; it takes the message out of the round. */
inline answer()
{
	d_step {
		if
		:: got_missing -> is_minor = 0; got_missing = 0;
		:: else -> is_minor = 1; got_minor = 0;
		fi;
	}
	if
	:: !live ->		/* answer_early() */
#ifdef STAGES
#ifndef BUG_NO_DISCARD_LOCK
		atomic { !discard_lock -> discard_lock = 1; }
		if
		:: live -> again = 1;
		:: else ->
#endif
			if
			:: is_minor -> map_cached();
			:: else -> zeropage(won);
			fi;
			wake();
#ifndef BUG_NO_DISCARD_LOCK
		fi;
		discard_lock = 0;
#endif
#else
		skip;
#endif
	:: else -> again = 1;
	fi;
	if
	:: again ->
		again = 0;
		c = claimed;
		a = arrived;
		if
		:: c && !a -> skip;		/* who places it wakes us */
		:: !(c && !a) && is_minor && (a || !data) -> map_cached(); wake();
		:: !(c && !a) && !is_minor && a -> zeropage(won); wake();
		:: !a && !c && data -> asked = 1;
		:: !a && !c && !data && !is_minor ->
			place_begin(won);
			if
			:: won -> place_zero();
			:: else
			fi;
		fi;
	:: else
	fi;
	d_step { won = 0; c = 0; a = 0; is_minor = 0; again = 0; }
}

/* A hole was touched. On EAGAIN it is given up, and the waiter faults again. */
inline place_zero()
{
	lock_shared();
	if
	:: arrived -> won = 0;
	:: else ->
		zeropage(won);
		if
		:: won -> arrived = 1;
		:: else -> claimed = 0;
		fi;
	fi;
	readers--;
	wake();
}

proctype fault_thread()
{
	bool won, is_minor, c, a, again;
	bool holding, blocked;
	byte rc;

end_start:
	{
end_idle:	do
		:: READABLE && (!holding || blocked) ->
#ifdef BUG_FAULTS_BEFORE_REMOVE
			lock_exclusive();
			read_all();
			unlock_exclusive();
			do
			:: got_missing || got_minor -> answer();
			:: else -> break;
			od;
			if
			:: rm ->
				lock_exclusive();
				empty_range();
				set_removed_bits();
				unlock_exclusive();
				wake();
			:: else
			fi;
#else
			read_events();
			do
			:: got_missing || got_minor -> answer();
			:: else -> break;
			od;
#endif
			blocked = 0;
#ifdef URGENT
		:: atomic { !holding && asked -> asked = 0; }
			place_begin(won);
			d_step { holding = won; won = 0; }
		:: holding && !(blocked && READABLE) ->
			place_step(rc);
			d_step { blocked = (rc == AGAIN); holding = blocked; rc = 0; }
#endif
		od;
	} DIES(won = 0; is_minor = 0; c = 0; a = 0; again = 0; holding = 0; blocked = 0; rc = 0)
}

/* DISCARD: done anew by a new pager that does not find it done. */
proctype discard_stage()
{
end_start:
	{
		if
		:: live -> skip;
		:: else ->
#ifndef BUG_NO_DISCARD_LOCK
			atomic { !discard_lock -> discard_lock = 1; }
#endif
#ifndef BUG_DISCARD_KEEPS_BITS
			claimed = 0;
			arrived = 0;
#endif
			punch();
			d_step { live = 1; legal = SOURCE_HAS; placed = 0; }
			discard_lock = 0;
		fi;
end_idle:	false;
	} DIES(skip)
}

/* Kill at any moment, then umem_takeover(), which can be killed as well. */
#define MAY_DIE if :: skip; :: atomic { crashes < CRASHES -> crashes++; goto again; } fi

proctype takeover()
{
	bool c;

	do
	:: break;
	:: atomic { crashes < CRASHES ->
			crashes++;
			alive = 0;
#ifndef STRICT_E2
			if
			:: rm && discarding -> lost = 1;
			:: rm && !discarding -> legal = legal | SOURCE_HAS;
			:: else
			fi;
#endif
			/* Nobody looks at these any more. */
			rm = 0; punch_due = 0;
			got_missing = 0; got_minor = 0;
			asked = 0; spare = 0;
		}
		dead == PAGER_THREADS;
again:
		atomic { readers = 0; writer = 0; writer_waits = 0; discard_lock = 0; c = 0; }
		MAY_DIE;
#ifdef BUG_RESET_ARRIVED
		c = claimed;
#else
		c = claimed && !arrived;
#endif
#ifdef BUG_TAKEOVER_SKIPS_HOLES
		c = c && data;
#endif
		if
		:: c && cached ->
#ifdef BUG_TAKEOVER_FORGETS_PRESENT
			claimed = 0;
#else
			arrived = 1;
#endif
		:: c && !cached ->
#ifndef BUG_TAKEOVER_NO_RESET
			d_step {
#ifdef BUG_RESET_ARRIVED
				arrived = 0;
#endif
				claimed = 0;
				if	/* E1: asked for again, but never after the discard returned */
				:: placed ->
					assert(discarding);
					placed = 0;
#ifndef STRICT_E1
					legal = legal | SOURCE_HAS;
#endif
				:: else
				fi;
			}
#else
			skip;
#endif
		:: else
		fi;
		MAY_DIE;
#ifndef BUG_TAKEOVER_NO_WAKE
		wake();
		MAY_DIE;
#endif
		d_step { c = 0; spare = SPARE; alive = 1; }
	od;
}

init
{
	atomic {
#ifdef STAGES
		if	/* what the stages before may leave */
		:: skip;						/* nothing */
		:: cached = 1; content = ZERO; mapped[VM] = 1;		/* touched by the waiting VMM */
		:: cached = 1; content = OLD; mapped[VM] = 1; claimed = 1; arrived = 1;	/* pre-copied */
		:: cached = 1; content = OLD; claimed = 1; arrived = 1;
		fi;
		run discard_stage();
#else
		live = 1;
		legal = SOURCE_HAS;
#endif
#ifdef HOLE
		data = 0;
		spare = 0;
#endif
		run fault_thread();
		run receiver();
#if RECEIVERS > 1
		run receiver();
#endif
		run guest(0, VM);
#if GUESTS > 1
		run guest(1, VM);
#endif
#ifdef SECOND
		run guest(GUESTS, 1);
#endif
#if DISCARDS > 0
		run vmm();
#endif
#if CRASHES > 0
		run takeover();
#endif
	}
}
