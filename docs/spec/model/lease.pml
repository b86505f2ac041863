/* Who is primary by a coordinator's lease, and how each state is committed. docs/spec/model.md explains it.
 *
 * Three machines and an honest coordinator with two keys: `primary`, which a lease keeps, and `state`. Requests to it may
 * be late or lost, and so may its answers. There is no clock: a lease ends at any moment, and a machine hears of that
 * at any later one, so one that is paused is one that takes no step for a while. A coordinator that cannot be reached is
 * one that takes no step. What becomes of generations when primaries change at any moment: reunion.pml.
 *
 * Bounds, each settable with -D: */
#ifndef EXPIRIES
#define EXPIRIES 1      /* leases that end though their holder lives */
#endif
#ifndef CHANGES
#define CHANGES 1       /* rotations, merges, changes of policy, ... by whoever believes to be primary */
#endif
#ifndef RESTARTS
#define RESTARTS 1      /* crashes, at any time */
#endif
#ifndef MISSES
#define MISSES 1        /* answers that a machine does not wait for any longer; the request may still arrive */
#endif

#define N 3
#define NOBODY N
#define LATE(i) ((i) + N)

#define AT(e, s, p) ((e) << 7 | (s) << 2 | (p))
#define EPOCH(x) ((x) >> 7)
#define SEQUENCE(x) (((x) >> 2) & 31)
#define PRIMARY(x) ((x) & 3)
#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* The coordinator. */
byte revision = 3;      /* grows with each write */
byte holder = NOBODY;   /* key `primary`: whose it is, ... */
byte created;           /* ... and the revision at which it was made: the fencing token */
short state = AT(0, 1, 1);  /* key `state`: the place of the newest state, ... */
byte modified = 3;      /* ... and the revision of its last write */

/* Durable. */
short place[N];

/* Volatile. */
byte token[N];          /* the revision at which it made `primary`; 0: holds no lease, as far as it knows */
bool leads[N];          /* has taken over under that lease */
bool knows[N];          /* has read `state` since: */
short saw[N];
byte saw_modified[N];

/* Requests to commit a state. i: that of machine i, which it waits for; N + i: one that is still on its way though
 * machine i waits no longer, or is another process by now. */
short wants[2 * N];     /* the state's place; 0: no request */
byte if_token[2 * N];   /* ... if `primary` is of this revision ... */
byte if_modified[2 * N]; /* ... and `state` of that */
byte answer[2 * N];     /* 0: none yet; 1: `state` is another; 2: `primary` is; else the commit's revision */

short aim;              /* of one step */

byte expiries, changes, restarts, misses;

#define HOLDS(i) (holder == (i) && token[i] == created)
#ifdef NO_FENCE
#define FENCED(i, t) true
#else
#define FENCED(i, t) (holder == (i) && created == (t))
#endif
#ifdef NO_CAS
#define SAME(m) true
#else
#define SAME(m) (modified == (m))
#endif

/* --- when a step is open ------------------------------------------------------------------------------------------ */

#define ACQUIRES(i) (token[i] == 0 && holder == NOBODY)
#define UNKEPT (holder != NOBODY && token[holder] != created)
#define LEARNS(i) (token[i] != 0 && !HOLDS(i))
#define READS(i) (token[i] != 0 && !knows[i] && wants[i] == 0)
#define TAKES_OVER(i) (token[i] != 0 && knows[i] && !leads[i] && wants[i] == 0)
#define FOLLOWS(i, j) (!leads[i] && place[j] > place[i])
#define BUSY(i) (ACQUIRES(i) || LEARNS(i) || READS(i) || TAKES_OVER(i) || wants[i] != 0 || wants[LATE(i)] != 0 || \
    FOLLOWS(i, 0) || FOLLOWS(i, 1) || FOLLOWS(i, 2))
#define SETTLED (!UNKEPT && !BUSY(0) && !BUSY(1) && !BUSY(2))

/* --- properties --------------------------------------------------------------------------------------------------- */

inline look() {
    /* (4) What is stored and used was committed. */
    assert(place[0] <= state && place[1] <= state && place[2] <= state);
    if
    :: SETTLED ->
        /* (2) One state everywhere, the committed one or a later try of it; one primary, who holds the lease. */
        assert(place[0] == place[1] && place[1] == place[2] && place[0] == state);
        assert(leads[0] + leads[1] + leads[2] == 1);
        assert(leads[PRIMARY(state)] && HOLDS(PRIMARY(state)))
    :: else
    fi
}

/* The coordinator's transaction: both comparisons and the write are one. `k`: the request. */
inline commits(k) {
    if
    :: FENCED(i, if_token[k]) && SAME(if_modified[k]) ->
        printf("machine %d commits %d.%d.%d\n", i, EPOCH(wants[k]), SEQUENCE(wants[k]), PRIMARY(wants[k]));
        /* (4) Each commit is later than all before; and no old holder's is among them. */
        assert((wants[k] >> 2) > (state >> 2));
        assert(holder == i && created == if_token[k]);
        revision++; modified = revision; state = wants[k]; answer[k] = revision
    :: else ->
        printf("machine %d is refused %d.%d.%d\n", i, EPOCH(wants[k]), SEQUENCE(wants[k]), PRIMARY(wants[k]));
        answer[k] = (FENCED(i, if_token[k]) -> 1 : 2)
    fi
}

inline forget(k) {
    wants[k] = 0; if_token[k] = 0; if_modified[k] = 0; answer[k] = 0
}

/* --- steps -------------------------------------------------------------------------------------------------------- */

inline wants_to_commit(i) {
    wants[i] = aim; aim = 0; if_token[i] = token[i]; if_modified[i] = saw_modified[i];
    assert(EPOCH(wants[i]) < 15 && SEQUENCE(wants[i]) < 31);
    printf("machine %d asks for %d.%d.%d\n", i, EPOCH(wants[i]), SEQUENCE(wants[i]), PRIMARY(wants[i]));
#ifdef USED_FIRST
    place[i] = wants[i];
#endif
}

/* Whoever does not know what became of its request reads again, and takes over again: a new epoch. */
inline gives_up(i) {
    if
    :: wants[i] != 0 && answer[i] == 0 && wants[LATE(i)] == 0 ->
        wants[LATE(i)] = wants[i]; if_token[LATE(i)] = if_token[i]; if_modified[LATE(i)] = if_modified[i]
    :: else     /* or it is lost */
    fi;
    forget(i);
    knows[i] = false; leads[i] = false; saw[i] = 0; saw_modified[i] = 0
}

inline hears(i) {
    if
    :: answer[i] == 1 -> gives_up(i)
    :: answer[i] == 2 -> gives_up(i); token[i] = 0
    :: else ->
        if
        :: wants[i] > place[i] -> place[i] = wants[i]
        :: else
        fi;
        saw[i] = wants[i]; saw_modified[i] = answer[i]; leads[i] = (token[i] != 0);
        printf("machine %d stores %d.%d.%d\n", i, EPOCH(wants[i]), SEQUENCE(wants[i]), PRIMARY(wants[i]));
        forget(i)
    fi
}

#ifdef NO_MAX
#define NEXT_EPOCH(i) (EPOCH(place[i]) + 1)
#else
#define NEXT_EPOCH(i) (MAX(EPOCH(place[i]), EPOCH(saw[i])) + 1)
#endif
#define NEXT_SEQUENCE(i) (MAX(SEQUENCE(place[i]), SEQUENCE(saw[i])) + 1)
#define PEER1 ((i + 1) % N)
#define PEER2 ((i + 2) % N)

proctype machine(byte i) {
end: accept:
    do
    /* What the programs do by themselves. Keeping the lease alive is: not expiring. */
    :: d_step { ACQUIRES(i) -> revision++; holder = i; created = revision; token[i] = revision;
        printf("machine %d has the lease of revision %d\n", i, created); look() }
    :: d_step { LEARNS(i) -> gives_up(i); token[i] = 0;
        printf("machine %d hears that its lease has ended\n", i); look() }
    :: d_step { READS(i) -> saw[i] = state; saw_modified[i] = modified; knows[i] = true;
        printf("machine %d reads %d.%d.%d\n", i, EPOCH(state), SEQUENCE(state), PRIMARY(state)); look() }
    /* It may have waited for another that has the committed state, or in vain: either is covered. */
    :: d_step { TAKES_OVER(i) -> aim = AT(NEXT_EPOCH(i), NEXT_SEQUENCE(i), i); wants_to_commit(i); look() }
    :: d_step { leads[i] && wants[i] == 0 && changes < CHANGES ->
        changes++; aim = AT(EPOCH(place[i]), SEQUENCE(place[i]) + 1, i); wants_to_commit(i); look() }
    :: d_step { wants[i] != 0 && answer[i] == 0 -> commits(i); look() }
    :: d_step { wants[i] != 0 && answer[i] != 0 -> hears(i); look() }
    :: d_step { FOLLOWS(i, PEER1) -> place[i] = place[PEER1]; printf("machine %d follows %d\n", i, PEER1); look() }
    :: d_step { FOLLOWS(i, PEER2) -> place[i] = place[PEER2]; printf("machine %d follows %d\n", i, PEER2); look() }

    /* What happens to them. */
    :: d_step { wants[LATE(i)] != 0 -> printf("late: "); commits(LATE(i)); forget(LATE(i)); look() }
    :: d_step { holder == i && (UNKEPT || expiries < EXPIRIES) ->
        if
        :: UNKEPT
        :: else -> expiries++
        fi;
        holder = NOBODY; printf("the lease of machine %d ends\n", i); look() }
    :: d_step { misses < MISSES && wants[i] != 0 -> misses++; gives_up(i);
        printf("machine %d gets no answer\n", i); look() }
    :: d_step { restarts < RESTARTS && token[i] != 0 -> restarts++; gives_up(i); token[i] = 0;
        printf("machine %d restarts\n", i); look() }
    od
}

init {
    atomic {
        byte k;
        for (k : 0 .. N - 1) { place[k] = state }
        run machine(0); run machine(1); run machine(2)
    }
}
