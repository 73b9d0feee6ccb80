/* SPDX-License-Identifier: MIT */
/* Epochs and end-of-pass marks: may a frame that comes late, twice or out of order leave old content at
 * the destination, or let END pass too early? Searched exhaustively for one page.
 *
 * What stands for what:
 *   source     the passes of PRECOPY, STOP, DISCARD, RUN, POSTCOPY and END (src/migrate/source.c, send.c).
 *              One process plays all its threads: frames of different connections are reordered by the
 *              connections anyway
 *   reader     one for each connection (0: urgent; 1, 2: bulk): take_frame(), dest_take_pages(), take_mark()
 *              (src/migrate/receive.c). A frame is taken, its epoch compared, then it is applied: three steps
 *   control    the destination's stages (src/migrate/dest.c)
 *   writer     the guest while it runs at the source; guest: after RUN, at the destination
 *   resume     a link that breaks after RUN: what was in flight is gone, both ends begin a new epoch
 *
 * Rules:
 *   - a pass scans and arms before it reads; every connection ends it with a mark; the destination counts
 *     a mark behind the writes of the same connection, opens the next epoch when all three are counted,
 *     and only then acknowledges. The source sends nothing of the next epoch before that.
 *   - frames and marks of another epoch are dropped.
 *   - STOP, then the last scan; DISCARD when all marks are acknowledged: opens a new epoch, forgets and
 *     empties what is stale. The source serves pages when DISCARD is acknowledged.
 *   - what has arrived is overwritten in PRECOPY only, not "until RUN": from DISCARD on the claim decides.
 *   - RESUME joins the old readers, then opens an epoch, forgets marks and reads what has arrived, in that
 *     order; the source forgets what it sent but had not arrived.
 * Atomic steps are a single access to a variable that threads share, a system call, or ghosts.
 *
 * Each BUG_ takes one rule away, and an error must be found. Not so for three, which are a second line behind
 * the others (tests/model/run shows it): the comparison of epochs, the epoch of DISCARD and that of RESUME
 * change nothing as long as every mark is awaited and every old reader joined. The join is no luxury: without
 * it an old mark whose epoch was compared before the break is counted after it.
 *
 * Left out: requests (background brings every page), REMOVE and crashes (pages.pml), I/O that lands in a
 * page after its scan (drained by an empty transaction), a break before RUN (a rollback).
 *
 * Shapes: PASSES, WRITES of the guest at the source, BREAKS of the link.
 */
#ifndef PASSES
#define PASSES 2
#endif
#ifndef WRITES
#define WRITES 2
#endif
#ifndef BREAKS
#define BREAKS 0
#endif

#define DATA 0
#define MARK 1
#define GUEST 99		/* content: written by the guest at the destination */
#define CONNS 3

chan conn0 = [2] of { byte, byte, byte };	/* kind, epoch, version */
chan conn1 = [2] of { byte, byte, byte };
chan conn2 = [2] of { byte, byte, byte };

/* --- source --- */
byte version = 1;		/* of the page, as the guest sees it */
bool dirty;
byte epoch = 1;
bool sent;			/* in this pass */
byte marked;			/* connections that have their mark, as bits */
bool stopped;
bool broken;

/* --- destination --- */
byte d_epoch = 1;
byte marks;
bool claimed, arrived, cached;
byte content;
bool precopy = 1;
bool running;
byte busy;			/* readers that hold a frame */

/* --- the control connection --- */
bool acked;			/* all marks of the epoch were counted */
bool discard, discarded, discard_stale;
bool end, ended;

/* What the source still owes: content older than `version` may be at the destination until then. */
#define OWED (dirty || !sent)

proctype writer()
{
	byte n;

	do
	:: atomic { n < WRITES && !stopped -> n++; version++; dirty = 1; }
	:: break;
	od;
}

inline send(kind, v)
{
	if
#ifndef BUG_NO_MARK_ON_URGENT
	:: kind == MARK && !(marked & 1) && !broken -> conn0 ! MARK, epoch, 0; marked = marked | 1;
#endif
	:: kind == MARK && !(marked & 2) && !broken -> conn1 ! MARK, epoch, 0; marked = marked | 2;
	:: kind == MARK && !(marked & 4) && !broken -> conn2 ! MARK, epoch, 0; marked = marked | 4;
	:: kind == DATA && !(marked & 1) && !broken -> conn0 ! DATA, epoch, v;
	:: kind == DATA && !(marked & 2) && !broken -> conn1 ! DATA, epoch, v;
	:: kind == DATA && !(marked & 4) && !broken -> conn2 ! DATA, epoch, v;
	fi;
}

#ifdef BUG_NO_MARK_ON_URGENT
#define ALL_MARKED 6
#define MARKS_DUE 2
#else
#define ALL_MARKED 7
#define MARKS_DUE 3
#endif

#define ROOM (nfull(conn0) && nfull(conn1) && nfull(conn2))
#ifdef BUG_NO_ACK_WAIT
#define NO_WAIT (!running)
#else
#define NO_WAIT false
#endif

/* One pass, or the background of POSTCOPY: the page if it is due, perhaps once more, then the marks. */
inline send_pass()
{
	twice = 0;
	do
	:: atomic { !sent && !broken && ROOM -> v = version; send(DATA, v); sent = 1; }
	:: atomic { sent && !twice && !broken && marked == 0 && ROOM ->
			v = version; send(DATA, v); twice = 1; }
	:: atomic { sent && marked != ALL_MARKED && !broken && ROOM -> send(MARK, 0); }
	:: atomic { marked == ALL_MARKED && !broken && (acked || NO_WAIT) -> break; }
	od;
	v = 0;
}

proctype source()
{
	byte pass, v;
	bool twice, stale;

	stale = 1;
	do
	:: pass == PASSES -> break;
	:: pass < PASSES ->
		pass++;
#ifdef BUG_READ_BEFORE_SCAN
		v = version;
		d_step { sent = !(stale || dirty); dirty = 0; stale = 0; }
		if
		:: !sent -> conn1 ! DATA, epoch, v; sent = 1;
		:: else
		fi;
#else
		atomic { sent = !(stale || dirty); dirty = 0; stale = 0; }
#endif
		send_pass();
		d_step { epoch++; acked = 0; marked = 0; }
	:: break;		/* it has converged, or the user said so */
	od;
#ifdef BUG_SCAN_BEFORE_STOP
	atomic { stale = stale || dirty; dirty = 0; }
	stopped = 1;
#else
	stopped = 1;
	atomic { stale = stale || dirty; dirty = 0; }
#endif
#ifndef BUG_DISCARD_KEEPS_EPOCH
	epoch++;
#endif
	discard_stale = stale;
	discard = 1;
#ifndef BUG_SERVES_BEFORE_DISCARDED
	discarded;
#endif
	sent = !stale;
	stale = 0;
	send_pass();
	end = 1;
}

#ifdef BUG_OVERWRITES_UNTIL_RUN
#define OVERWRITES !running
#else
#define OVERWRITES precopy
#endif

/* place(): first arrival by COPY, under a claim; later ones overwrite, where that is allowed. */
inline place(ver)
{
	atomic { won = !claimed; claimed = 1; }
	if
	:: won ->
		d_step { assert(!cached); cached = 1; content = ver; }
		arrived = 1;
	:: !won && arrived && OVERWRITES ->
		d_step {
			/* never older over newer, unless it is owed anyway */
			assert(!cached || ver >= content || OWED || !precopy);
			assert(!running);	/* pwrite after RUN: may destroy what the guest wrote */
			content = ver;
		}
	:: else
	fi;
	won = 0;
}

#ifdef BUG_NO_EPOCH_CHECK
#define FRESH(e) true
#else
#define FRESH(e) (e == d_epoch)
#endif

/* Applies a frame whose epoch was right a moment ago. */
inline apply(kind, ver)
{
	if
	:: kind == DATA -> place(ver);
	:: else -> atomic { marks++; }
	fi;
}

proctype reader(chan c)
{
	byte kind, e, ver;
	bool won;

end_idle:
	do
	:: atomic { c ? kind, e, ver -> busy++; }
#ifdef BUG_MARK_BEFORE_WRITE
		/* several frames at once, marks first */
		if
		:: kind == DATA && FRESH(e) && c ?? [MARK, eval(e), 0] -> marks++; place(ver); c ?? MARK, eval(e), 0;
		:: FRESH(e) && !(kind == DATA && c ?? [MARK, eval(e), 0]) -> apply(kind, ver);
		:: !FRESH(e) -> skip;
		fi;
#else
		if
		:: FRESH(e) -> apply(kind, ver);
		:: else
		fi;
#endif
		atomic { busy--; kind = 0; e = 0; ver = 0; }
	od;
}

/* An old reader that nobody joined: it has compared the epoch, and applies its frame whenever it likes. */
proctype late_reader(byte kind; byte ver)
{
	bool won;

	apply(kind, ver);
}

proctype control()
{
end_idle:
	do
	:: atomic { marks >= MARKS_DUE && !broken && !acked && precopy -> marks = 0; d_epoch++; acked = 1; }
	:: atomic { marks >= MARKS_DUE && !broken && !acked && running -> acked = 1; }
	:: discard ->
		discard = 0;
#ifndef BUG_DISCARD_KEEPS_EPOCH
		d_epoch++;
#endif
		precopy = 0;
		marks = 0;
		if
		:: discard_stale ->
#ifndef BUG_DISCARD_KEEPS_BITS
			claimed = 0;
			arrived = 0;
#endif
			d_step { cached = 0; content = 0; }
		:: else
		fi;
		discarded = 1;
		running = 1;		/* DEVICE and RUN */
	:: end ->
		end = 0;
		assert(arrived);	/* the completeness check; never fails on working links */
		assert(content == version || content == GUEST);
		ended = 1;
		break;
	od;
}

proctype guest()
{
	byte n;

end_idle:
	running;
	do
	:: n == 2 -> break;
	:: atomic { n < 2 && cached ->
			assert(content == (n -> GUEST : version));
			content = GUEST;
			n++;
		}
	od;
}

inline lose_all()
{
	do
	:: conn0 ? kind, _, ver;
	:: conn1 ? kind, _, ver;
	:: conn2 ? kind, _, ver;
	:: empty(conn0) && empty(conn1) && empty(conn2) -> break;
	od;
}

proctype resume()
{
	byte n, kind, ver;

	do
	:: break;
	:: atomic { n < BREAKS && running && !acked && !end && !ended ->
			n++;
			broken = 1;
#ifdef BUG_READERS_NOT_JOINED
			if
			:: conn0 ? [_, _, _] -> conn0 ? kind, _, ver; run late_reader(kind, ver);
			:: conn1 ? [_, _, _] -> conn1 ? kind, _, ver; run late_reader(kind, ver);
			:: skip;
			fi;
#endif
			lose_all();
			kind = 0;
			ver = 0;
		}
#ifndef BUG_READERS_NOT_JOINED
		busy == 0;
#endif
#ifndef BUG_RESUME_KEEPS_EPOCH
		d_epoch++;
#endif
#ifndef BUG_RESUME_KEEPS_MARKS
		marks = 0;
#endif
#ifndef BUG_RESUME_KEEPS_SENT
		sent = arrived;
#endif
		atomic { epoch = d_epoch; marked = 0; broken = 0; }
	od;
}

init
{
	atomic {
		run source();
		run writer();
		run reader(conn0);
		run reader(conn1);
		run reader(conn2);
		run control();
		run guest();
#if BREAKS > 0
		run resume();
#endif
	}
}
