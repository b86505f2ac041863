/* Promotion by operators, rotation, forks and reunion, without a coordinator. docs/spec/model.md explains it.
 *
 * Three machines of one domain, all of which hold its first generation; machine 1 is its primary. A machine that is
 * cut off, slow, paused or switched off is one that takes no step for a while, so none of this needs a state of its
 * own; what a crash does is `restarts`: everything volatile is gone. Each step below is one that is atomic in the
 * program too: a transaction of its own record, or a look at what a peer answered.
 *
 * Bounds, each settable with -D: */
#ifndef PROMOTIONS
#define PROMOTIONS 2    /* by operators, of any standby, at any time */
#endif
#ifndef ROTATIONS
#define ROTATIONS 2     /* by operators, on whoever believes to be primary */
#endif
#ifndef RESTARTS
#define RESTARTS 1      /* crashes, at any time */
#endif
#ifndef LOSSES
#define LOSSES 0        /* machines whose disk is lost for good */
#endif
#ifndef RETIREMENTS
#define RETIREMENTS 0   /* by operators, on whoever believes to be primary */
#endif
/* With -DFOUNDING only machine 1 has a keyring at first; the others join. */

#define N 3
#define FIRST 1         /* the middle id: ties of place are won and lost by it */
#define BIT(g) (1 << (g))

/* A place in the order of states: epoch, sequence, primary, most significant first. */
#define AT(e, s, p) ((e) << 7 | (s) << 2 | (p))
#define EPOCH(x) ((x) >> 7)
#define SEQUENCE(x) (((x) >> 2) & 31)
#define PRIMARY(x) ((x) & 3)

/* Durable: the keyring in each machine's record. `have` and `pend` are sets of generations (bits). */
short place[N];
byte have[N];           /* every generation it holds, and can open secrets with */
byte pend[N];           /* those of them that wrap nothing yet */
byte gone[N];           /* those of them that are retired: every use is refused */
byte cur[N];            /* the one that it wraps under */
byte knows[N];          /* the other machines that it knows to be of the domain (bits) */
bool lost[N];           /* the disk is gone for good */

/* Volatile. */
bool yields[N];         /* a primary that saw a later state which it may not adopt yet: serves, changes nothing */
byte acked[N];          /* as primary: the machines that have said that they hold the present state (bits) */
bool due[N];            /* only ACK_...: has not said yet that it holds its state */
short got[N];           /* a keyring that a peer answered with, not stored yet: its place (0: none), ... */
byte got_have[N];       /* ... its generations, ... */
byte got_pend[N];
byte got_gone[N];
byte got_cur[N];
byte got_knows[N];

/* What no machine knows: for the properties and the bounds. */
byte generations = 1;
byte wrapped = BIT(0);  /* under which of them anything was wrapped anywhere */
byte retired;           /* what was retired anywhere */
byte promotions, rotations, restarts, losses, retirements;

#ifdef TIES
#define LATER(a, b) (((a) >> 2) > ((b) >> 2))
#else
#define LATER(a, b) ((a) > (b))
#endif
#define WITHIN(a, b) (((a) & ~(b)) == 0)
#define ACTS(i) (PRIMARY(place[i]) == (i) && have[i] != 0 && !yields[i] && !lost[i])

/* --- when a step is open ------------------------------------------------------------------------------------------ */

/* Machine i sees in j's hint what makes it ask j for its keyring: a later state that it may adopt; as primary, a later
 * one to which it yields, or an earlier one with generations that it lacks. */
#ifdef NO_MERGE
#define TO_MERGE(i, p, h) false
#else
#ifdef MERGES_NOTHING
#define TO_MERGE(i, p, h) (ACTS(i) && LATER(place[i], p))
#else
#define TO_MERGE(i, p, h) (ACTS(i) && !LATER(p, place[i]) && !WITHIN(h, have[i]))
#endif
#endif
#ifdef ADOPT_ANYWAY
#define TO_ADOPT(i, p, h) (LATER(p, place[i]))
#else
#define TO_ADOPT(i, p, h) (LATER(p, place[i]) && WITHIN(have[i], h))
#endif
#ifdef ASKS_IN_VAIN
#define TO_YIELD(i, p) (LATER(p, place[i]) && PRIMARY(place[i]) == (i))
#else
#define TO_YIELD(i, p) (LATER(p, place[i]) && ACTS(i))
#endif
#define ASKS(i, j) (!lost[i] && !lost[j] && got[i] == 0 && (TO_MERGE(i, place[j], have[j]) || \
    TO_ADOPT(i, place[j], have[j]) || TO_YIELD(i, place[j])))

/* Machine j tells primary i what it holds. It counts if it is i's present state, all of it, on j's disk. The hint says
 * that a generation is pending, so j asks again until that has ended: one lost message loses nothing. */
#ifdef ACK_NOT_DURABLE
#define HOLDS(j, i) (place[j] == place[i] || got[j] == place[i])
#else
#ifdef ACK_OF_ANOTHER
#define HOLDS(j, i) ((place[j] >> 2) >= (place[i] >> 2))
#else
#define HOLDS(j, i) (place[j] == place[i])
#endif
#endif
#if defined(ACK_ONCE) || defined(ACK_UNTIL_ANSWERED)
#define TELLS(j) due[j]
#else
#define TELLS(j) true
#endif
#define WAITS(i) (ACTS(i) && ((pend[i] != 0 && acked[i] == 0) || retirements < RETIREMENTS))
#define ACKS(j, i) (i != j && !lost[j] && TELLS(j) && WAITS(i) && !(acked[i] & BIT(j)) && HOLDS(j, i))

#define ACTIVATES(i) (ACTS(i) && pend[i] != 0 && acked[i] != 0)
#define READABLE(i) (have[i] & ~(pend[i] | gone[i] | BIT(cur[i])))
#ifdef RETIRED_UNHEARD
#define ALL_HOLD(i) true
#else
#define ALL_HOLD(i) WITHIN(knows[i], acked[i])
#endif
#define MAY_RETIRE(i) (ACTS(i) && READABLE(i) != 0 && ALL_HOLD(i))

#define BUSY(i) (ASKS(i, 0) || ASKS(i, 1) || ASKS(i, 2) || ACKS(0, i) || ACKS(1, i) || ACKS(2, i) || \
    ACTIVATES(i) || got[i] != 0)
#define SETTLED (!BUSY(0) && !BUSY(1) && !BUSY(2))
#define NOBODY (!ACTS(0) && !ACTS(1) && !ACTS(2))

/* --- properties --------------------------------------------------------------------------------------------------- */

#define ALIKE(i, j) (lost[i] || lost[j] || (place[i] == place[j] && have[i] == have[j] && pend[i] == pend[j] && \
    gone[i] == gone[j] && cur[i] == cur[j]))
#define ELSEWHERE(i, g) ((have[(i + 1) % N] & BIT(g)) || (have[(i + 2) % N] & BIT(g)))
#define ALONE(i) (have[(i + 1) % N] == 0 && have[(i + 2) % N] == 0)
#define KEPT(i) (lost[i] -> 0 : have[i])

/* Machine i has stored a keyring: from now on it wraps under its current generation. */
inline uses(i) {
    /* (3) Nothing wraps under a pending generation, and none wraps that only one machine has on its disk.
     * A disk that was lost since it acknowledged counts: that failure came later. */
    assert((pend[i] & BIT(cur[i])) == 0);
    assert(ALONE(i) || ELSEWHERE(i, cur[i]));
    /* (6) Nothing wraps any more under what was retired anywhere. */
    assert((retired & BIT(cur[i])) == 0);
    wrapped = wrapped | BIT(cur[i])
}

/* After every step. */
inline look() {
    /* (1) What anything was wrapped under is on a disk, at any moment. */
    assert(WITHIN(wrapped, KEPT(0) | KEPT(1) | KEPT(2)));
    if
    :: SETTLED && !NOBODY ->
        /* (2) No message is left to be sent: one state everywhere, and one primary; rotations have ended. */
        assert(ALIKE(0, 1) && ALIKE(1, 2) && ALIKE(0, 2));
        assert(ACTS(0) + ACTS(1) + ACTS(2) == 1);
        assert((KEPT(0) & pend[0]) == 0 && (KEPT(1) & pend[1]) == 0 && (KEPT(2) & pend[2]) == 0);
        /* (1) And every machine opens whatever was wrapped. */
        assert(lost[0] || WITHIN(wrapped, have[0]));
        assert(lost[1] || WITHIN(wrapped, have[1]));
        assert(lost[2] || WITHIN(wrapped, have[2]))
    :: SETTLED && NOBODY ->
        /* Only if a machine is gone for good an operator must choose. */
        assert(losses > 0)
    :: else
    fi
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

inline says(i) {
    printf(": place %d.%d.%d, ", EPOCH(place[i]), SEQUENCE(place[i]), PRIMARY(place[i]));
    printf("holds %d, pending %d, retired %d, ", have[i], pend[i], gone[i]);
    printf("current %d, yields %d\n", cur[i], yields[i])
}

/* The next state of i's keyring, made by i. */
inline next(i, epoch) {
    place[i] = AT(epoch, SEQUENCE(place[i]) + 1, i);
    assert(EPOCH(place[i]) < 8 && SEQUENCE(place[i]) < 31);
    acked[i] = 0
}

inline promote(i) {
    next(i, EPOCH(place[i]) + 1);
    yields[i] = false;
#ifdef PROMOTION_DROPS_PENDING
    have[i] = have[i] & ~pend[i];
    pend[i] = 0;
#endif
    printf("machine %d is promoted", i); says(i)
}

inline rotate(i) {
    next(i, EPOCH(place[i]));
    have[i] = have[i] | BIT(generations);
#ifdef PENDING_WRAPS
    cur[i] = generations;
#else
    if
    :: knows[i] == 0 -> cur[i] = generations
    :: else -> pend[i] = BIT(generations)   /* one that was pending before is readable: it never wraps here */
    fi;
#endif
    generations++;
    printf("machine %d rotates", i); says(i);
    uses(i)
}

/* The pending generation becomes current. */
inline activate(i) {
    next(i, EPOCH(place[i]));
    if
    :: pend[i] & BIT(4) -> cur[i] = 4
    :: else -> if
        :: pend[i] & BIT(3) -> cur[i] = 3
        :: else -> if
            :: pend[i] & BIT(2) -> cur[i] = 2
            :: else -> cur[i] = 1
            fi
        fi
    fi;
    pend[i] = 0;
    printf("machine %d activates", i); says(i);
    uses(i)
}

/* The oldest generation that may be. */
inline retire(i) {
    next(i, EPOCH(place[i]));
    if
    :: READABLE(i) & BIT(0) -> gone[i] = gone[i] | BIT(0)
    :: else -> if
        :: READABLE(i) & BIT(1) -> gone[i] = gone[i] | BIT(1)
        :: else -> if
            :: READABLE(i) & BIT(2) -> gone[i] = gone[i] | BIT(2)
            :: else -> gone[i] = gone[i] | BIT(3)
            fi
        fi
    fi;
    retired = retired | gone[i];
    printf("machine %d retires", i); says(i)
}

inline forget_answer(i) {
    got[i] = 0; got_have[i] = 0; got_pend[i] = 0; got_gone[i] = 0; got_cur[i] = 0; got_knows[i] = 0
}

/* Who answers has stored first that it knows whom it answers. */
inline ask(i, j) {
    got[i] = place[j]; got_have[i] = have[j]; got_pend[i] = pend[j]; got_gone[i] = gone[j]; got_cur[i] = cur[j];
#ifndef KNOWN_LATER
    knows[j] = knows[j] | BIT(i);
#endif
#ifdef GRANT_NAMES_NOBODY
    got_knows[i] = 0;
#else
    got_knows[i] = (knows[j] | BIT(j)) & ~BIT(i);
#endif
    printf("machine %d is answered by %d with %d.%d.%d\n", i, j, EPOCH(got[i]), SEQUENCE(got[i]), PRIMARY(got[i]))
}

/* What was decided by the hint is decided again by the answer and by what i is now: both may have changed since. */
inline take(i) {
    if
#ifdef NO_RECHECK
    :: PRIMARY(got[i]) != i && !TO_MERGE(i, got[i], got_have[i]) ->
#else
    :: TO_ADOPT(i, got[i], got_have[i]) ->
#endif
        place[i] = got[i]; have[i] = got_have[i]; pend[i] = got_pend[i]; gone[i] = got_gone[i]; cur[i] = got_cur[i];
        knows[i] = knows[i] | got_knows[i]; yields[i] = false; acked[i] = 0;
#if defined(ACK_ONCE) || defined(ACK_UNTIL_ANSWERED)
        due[i] = true;
#endif
        printf("machine %d adopts", i); says(i);
        uses(i)
    :: else -> if
        :: TO_MERGE(i, got[i], got_have[i]) ->
#ifndef MERGE_IN_PLACE
            next(i, EPOCH(place[i]));
#endif
            /* Retired is only what neither uses any more; what it lacked is readable: not in pend, not current. */
            gone[i] = (gone[i] & (got_gone[i] | ~got_have[i])) | (got_gone[i] & ~have[i]);
            have[i] = have[i] | got_have[i];
            printf("machine %d merges", i); says(i)
        :: TO_YIELD(i, got[i]) ->
            yields[i] = true;
            printf("machine %d yields", i); says(i)
        :: else
        fi
    fi;
    forget_answer(i)
}

inline acks(j, i) {
    acked[i] = acked[i] | BIT(j); knows[i] = knows[i] | BIT(j); due[j] = false;
    printf("machine %d acknowledges to %d\n", j, i)
}

inline lose_volatile(i) {
    yields[i] = false; acked[i] = 0; due[i] = false;
    forget_answer(i)
}

#define PEER1 ((i + 1) % N)
#define PEER2 ((i + 2) % N)

proctype machine(byte i) {
    /* Each way round is a step. That every round is "accepted" makes a run without end an error (5). */
end: accept:
    do
    /* What the program does by itself. */
    :: d_step { ASKS(i, PEER1) -> ask(i, PEER1); look() }
    :: d_step { ASKS(i, PEER2) -> ask(i, PEER2); look() }
    :: d_step { got[i] != 0 -> take(i); look() }
    :: d_step { ACKS(PEER1, i) -> acks(PEER1, i); look() }
    :: d_step { ACKS(PEER2, i) -> acks(PEER2, i); look() }
#ifdef ACK_ONCE
    :: d_step { due[i] -> due[i] = false; printf("the word of machine %d is lost\n", i); look() }
#endif
    :: d_step { ACTIVATES(i) -> activate(i); look() }

    /* What operators do. */
    :: d_step { promotions < PROMOTIONS && !lost[i] && have[i] != 0 && !ACTS(i) -> promotions++; promote(i); look() }
    :: d_step { rotations < ROTATIONS && ACTS(i) -> rotations++; rotate(i); look() }
    :: d_step { retirements < RETIREMENTS && MAY_RETIRE(i) -> retirements++; retire(i); look() }
    :: d_step { losses > 0 && SETTLED && NOBODY && !lost[i] && have[i] != 0 -> promote(i); look() }

    /* What happens to them. */
    :: d_step { restarts < RESTARTS && !lost[i] && (yields[i] || acked[i] || got[i] != 0) ->
        restarts++; lose_volatile(i); printf("machine %d restarts", i); says(i); look() }
    :: d_step { losses < LOSSES && !lost[i] && !ALONE(i) ->
        losses++; lost[i] = true; lose_volatile(i); printf("machine %d is lost for good", i); says(i); look() }
#ifdef HINT_BELIEVED
    :: d_step { ACTS(i) -> yields[i] = true; printf("machine %d hears a lie", i); says(i); look() }
#endif
    od
}

init {
    atomic {
        byte k;
#ifdef FOUNDING
        place[FIRST] = AT(0, 1, FIRST);
        have[FIRST] = BIT(0);
#else
        for (k : 0 .. N - 1) {
            place[k] = AT(0, 1, FIRST);
            have[k] = BIT(0);
            knows[k] = 7 & ~BIT(k)
        }
#endif
        run machine(0); run machine(1); run machine(2)
    }
}
