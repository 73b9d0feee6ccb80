/* SPDX-License-Identifier: MIT */
/* Who may run the VM: two hosts, a link, and whatever dies or breaks. Searched exhaustively: never both,
 * never a machine that ran at the destination and runs at the source again, and nobody stuck without an
 * operator unless a VMM died.
 *
 * What stands for what:
 *   source      umig-source (src/migrate/source.c, resume.c) and, where it boots, its keeper's decision by
 *               state.json (keeper_next() in src/serve/attend.c). A keeper that dies alone is replaced by its
 *               worker and decides nothing; where both die, 'umig recover' decides the same by the same file
 *   destination umig-pager (src/migrate/dest.c, resume.c) and its keeper likewise
 *   s_file, d_file  the record in state.json at each end: written by rename, so atomic
 *   s2d, d2s    the control connection. A cut loses what is in it from some message on: the reader sees an
 *               end there. What was sent before may still be read, however late
 *   network     cuts the connection, CUTS times
 *   reaper      kills VMMs, DEATHS times
 *
 * Rules (docs/design.md, "Commit rule"):
 *   - `committed` is on file before RUN is sent; before it everything is a rollback without a word of the
 *     destination, behind it the source only asks.
 *   - `running` is on file before the VM is continued; a RUN that comes again is answered from there.
 *   - REFUSED is said when the VMM is dead, and never once `running` is on file, but for an error reply to
 *     the first `cont`, by who sent it.
 *   - who has refused, and who has all pages, stays until the other one has answered that.
 *
 * Each BUG_ takes one rule away, and an error must be found.
 *
 * Left out: pages (pages.pml, epochs.pml), rehearsals (RUN is never sent), an operator's word (fenced: what
 * the model would show is what the operator has promised).
 *
 * Shapes: CRASHES of each worker, CUTS, DEATHS of VMMs, REFUSES: the destination's VMM may refuse `cont`.
 */
#ifndef CRASHES
#define CRASHES 1
#endif
#ifndef CUTS
#define CUTS 1
#endif
#ifndef DEATHS
#define DEATHS 0
#endif

mtype = { BEGUN, STOPPING, COMMITTED, LOADING, RUNNING, RAN, COMPLETED, DONE, ROLLED_BACK, REFUSED_, LOST };
mtype = { M_DEVICE, M_DEVICE_OK, M_RUN, M_RAN, M_END, M_END_OK, M_BYE, M_BYE_OK, M_CANCEL, M_REFUSED,
	  M_FAILED, M_RESUME, M_RESUME_OK, M_RESUME_OK_RAN };

#define ROOM 3
chan s2d = [ROOM] of { mtype };
chan d2s = [ROOM] of { mtype };
bool up = 1;		/* the connection */
bool call;		/* the source has called, and nobody has answered yet */

mtype s_file = BEGUN, d_file = BEGUN;
bool s_run = 1, d_run;
bool s_vmm = 1, d_vmm = 1;	/* they live */
byte s_crashes, d_crashes, cuts, deaths;
bool ever_ran;			/* ghost: at the destination */
bool s_over, d_over, s_operator;
bool d_paused;			/* its VMM has refused `cont` once */

#define ONE_ONLY assert(!(s_run && d_run))
#define FORGET_S2D do :: nempty(s2d) -> s2d ? _ :: empty(s2d) -> break od
#define FORGET_D2S do :: nempty(d2s) -> d2s ? _ :: empty(d2s) -> break od

/* A message that may get lost; nobody hears of it but by what does not come back. */
inline s_send(m)
{
	atomic { if :: up && len(s2d) < ROOM -> s2d ! m :: else fi }
}
inline d_send(m)
{
	atomic { if :: up && len(d2s) < ROOM -> d2s ! m :: else fi }
}

inline s_continue()
{
	atomic {
		if
		:: s_vmm -> assert(!ever_ran); s_run = 1; ONE_ONLY
		:: else
		fi
	}
}

proctype source()
{
	mtype m;

boot:	/* by what is on file */
	m = 0;
	if
	:: s_file == BEGUN || s_file == STOPPING -> goto begin_or_back
	:: s_file == COMMITTED || s_file == RAN || s_file == COMPLETED -> goto resume
	:: else -> goto over
	fi;

begin_or_back:
	if
	:: s_crashes == 0 && s_file == BEGUN -> skip	/* the first */
	:: else -> goto back
	fi;
	s_file = STOPPING;
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	s_run = 0;
	s_send(M_DEVICE);
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	if
	:: d2s ? m -> if :: m == M_DEVICE_OK -> skip :: else -> goto back fi
	:: !up -> goto back
	fi;
#ifdef BUG_RUN_BEFORE_COMMITTED
	s_send(M_RUN);
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	s_file = COMMITTED;
#else
	s_file = COMMITTED;
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	s_send(M_RUN);
#endif
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;

hear:	/* RAN, or why not */
	if
	:: d2s ? m ->
		if
		:: m == M_RAN -> goto ran
		:: m == M_REFUSED && s_file != RAN -> goto back
		:: m == M_FAILED -> goto failed
		:: else -> goto hear
		fi
#ifdef BUG_ROLLS_BACK_COMMITTED
	:: !up -> goto back
#else
	:: !up -> goto resume
#endif
	fi;

resume:	/* calls until it is heard; when all is said only for a while */
	up = 0;
	FORGET_D2S;
	m = 0;
	call = 1;
	if
	:: !call -> skip	/* answered: the queues are new */
	:: s_crashes < CRASHES -> atomic { s_crashes++; call = 0; up = 0; } goto boot
	:: s_file == COMPLETED -> atomic { call = 0; up = 0; } goto done
	fi;
	s_send(M_RESUME);
	if
	:: d2s ? m ->
		if
		:: m == M_RESUME_OK_RAN -> goto ran
		:: m == M_RESUME_OK -> s_send(M_RUN); goto hear
		:: m == M_REFUSED && s_file != RAN -> goto back
		:: m == M_FAILED -> goto failed
		:: else -> goto resume
		fi
	:: !up -> goto resume
	fi;

ran:
	if
	:: s_file == COMMITTED -> s_file = RAN
	:: else
	fi;
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	s_send(M_END);
end:
	if
	:: d2s ? m ->
		if
		:: m == M_END_OK -> skip
		:: m == M_FAILED -> goto failed
		:: else -> goto end
		fi
	:: !up -> goto resume
	fi;
	s_file = COMPLETED;
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
	s_send(M_BYE);
	if
	:: d2s ? m -> if :: m == M_BYE_OK -> goto done :: else -> goto resume fi
	:: !up -> goto resume
	fi;

done:
	s_file = DONE;
	goto over;

back:	/* the VM goes on here, whatever has died; on file before the one who refused may go */
	s_continue();
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
#ifdef BUG_CANCEL_BEFORE_RECORD
	s_send(M_CANCEL);
	if :: s_crashes < CRASHES -> s_crashes++; up = 0; goto boot :: skip fi;
#endif
	s_file = ROLLED_BACK;
	s_send(M_CANCEL);
	goto over;

failed:	/* only an operator can do anything about that */
	s_send(M_BYE);
	s_operator = 1;
over:
	s_over = 1;
	up = 0;
	call = 0;
}

inline accept_call()
{
	atomic { call -> call = 0; FORGET_S2D; FORGET_D2S; up = 1; m = 0; }
}

proctype destination()
{
	mtype m;
	bool tried;	/* this process has said `cont` */
	bool first;	/* and nobody before it can have */

boot:
	m = 0;
	tried = 0;
	first = 0;
	if
	:: d_file == BEGUN && d_crashes == 0 -> skip
	:: d_file == BEGUN -> goto over		/* the source has seen the link break: it goes on there */
	:: d_file == LOADING -> goto kill
	:: d_file == RUNNING || d_file == RAN || d_file == COMPLETED -> goto await
	:: else -> goto over
	fi;
	if
	:: s2d ? m -> if :: m == M_DEVICE -> skip :: else -> goto over fi
	:: !up -> goto over
	fi;
	d_file = LOADING;
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
	d_send(M_DEVICE_OK);
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
	if
	:: s2d ? m -> if :: m == M_RUN -> goto take :: else -> goto kill fi
	:: !up -> goto kill
	:: !d_vmm -> goto kill
	:: goto kill		/* whatever else is wrong here, and RUN may be on its way */
	fi;

take:	/* RUN has come */
	if :: d_file == LOADING -> first = 1 :: else fi;
#ifndef BUG_RUNNING_AFTER_CONT
	if :: d_file == LOADING -> d_file = RUNNING :: else fi;
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
#endif
	if
	:: !d_vmm -> goto dead
#ifdef REFUSES
	:: atomic { d_vmm && !d_paused -> d_run = 0; d_paused = 1; }	/* an error reply */
#ifdef BUG_REFUSES_SECOND_CONT
		goto kill_given;
#else
		if :: first && !tried -> goto kill_given :: else -> tried = 1; d_send(M_FAILED); goto await fi;
#endif
#endif
	:: atomic { d_vmm -> tried = 1; d_run = 1; ever_ran = 1; ONE_ONLY }
	fi;
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
#ifdef BUG_RUNNING_AFTER_CONT
	d_file = RUNNING;
#endif
	d_send(M_RAN);
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
	if :: d_file == RUNNING -> d_file = RAN :: else fi;

serve:
	if
	:: s2d ? m ->
		if
		:: m == M_END -> goto complete
		:: m == M_BYE && d_file == COMPLETED -> goto bye
		:: m == M_RUN -> goto take
		:: else -> goto serve
		fi
	:: !up -> goto await
	:: !d_vmm && d_file != COMPLETED -> goto dead
	fi;

await:	/* the source calls again; whoever is complete stays until it has heard that */
#ifdef BUG_COMPLETE_LEAVES
	if :: d_file == COMPLETED -> goto over :: else fi;
#endif
	atomic { up = 0; FORGET_S2D; }
	if
	:: accept_call()
	:: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot
	:: !d_vmm && d_file != COMPLETED -> goto dead
	:: s_over && (d_file == COMPLETED || s_operator) -> goto over	/* nobody will ask: it waits */
	fi;
	if
	:: s2d ? m -> if :: m == M_RESUME -> skip :: else -> goto await fi
	:: !up -> goto await
	fi;
	if
	:: d_file == RUNNING && !tried -> d_send(M_RESUME_OK)	/* it may run; once more does no harm */
	:: else -> d_send(M_RESUME_OK_RAN)
	fi;
	goto serve;

complete:
	if
	:: !d_vmm && d_file != COMPLETED -> goto dead
	:: else -> d_file = COMPLETED
	fi;
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
	d_send(M_END_OK);
	goto serve;

bye:
	d_file = DONE;
	if :: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot :: skip fi;
	d_send(M_BYE_OK);
	goto over;

kill_given:	/* the first `cont` was refused: nothing ran, and it is dead before that is said */
#ifndef BUG_REFUSED_ALIVE
	d_vmm = 0;
#endif
	d_run = 0;
	d_file = LOADING;
	goto refuse;

kill:	/* the machine was loaded and never run */
#ifndef BUG_REFUSED_ALIVE
	atomic { d_vmm = 0; d_run = 0; }
#endif
refuse:
	d_send(M_REFUSED);
	if
	:: s2d ? m ->
		if
		:: m == M_CANCEL -> goto refused
#ifdef BUG_REFUSED_ALIVE
		:: m == M_RUN -> goto take
#endif
		:: else -> goto refuse_await
		fi
	:: !up -> skip
	fi;
refuse_await:
	atomic { up = 0; FORGET_S2D; }
#ifdef BUG_REFUSER_LEAVES
	goto over;
#endif
	if
	:: accept_call()
	:: s_over -> goto over		/* nobody will ask: it waits, and the search ends */
	:: d_crashes < CRASHES -> d_crashes++; up = 0; goto boot
	fi;
	if
	:: s2d ? m -> if :: m == M_RESUME -> goto refuse :: else -> goto refuse_await fi
	:: !up -> goto refuse_await
	fi;

dead:	/* it ran, or may have, and its VMM is gone: never a way back */
	d_send(M_FAILED);
	if
	:: s2d ? m -> if :: m == M_BYE -> goto lost :: else -> goto dead_await fi
	:: !up -> skip
	fi;
dead_await:
	atomic { up = 0; FORGET_S2D; }
	if
	:: accept_call()
	:: s_over -> goto lost
	fi;
	goto dead;

refused:
	d_file = REFUSED_;
	goto over;
lost:
	d_file = LOST;
over:
	d_over = 1;
	up = 0;
}

proctype network()
{
	do
	:: cuts < CUTS -> cuts++; up = 0
	:: break
	od
}

proctype reaper()
{
	do
	:: deaths < DEATHS -> atomic { deaths++; s_vmm = 0; s_run = 0; }
	:: deaths < DEATHS -> atomic { deaths++; d_vmm = 0; d_run = 0; }
	:: break
	od
}

/* When all is said: it runs on one side, unless its VMM died, or an operator is asked. */
proctype judge()
{
	atomic {
		(s_over && d_over);
		if
		:: !deaths && !s_operator -> assert(s_run || d_run || d_paused)
		:: else
		fi;
		if
		:: d_run -> assert(d_file == DONE || d_file == COMPLETED)
		:: else
		fi
	}
}

init
{
	atomic { run source(); run destination(); run network(); run reaper(); run judge(); }
}
