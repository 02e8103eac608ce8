/*
 * The proof: no check says yes to a user whose revocation was acknowledged before the check began, and none says that a user
 * is unknown who was there all the time. README.md says what is modelled, which code each step stands for, and how to run it.
 *
 * One stream, the bucket `users`, with a user U and the guard G. U is an admin: a revocation is staged in U and committed by G.
 * Or U is a member (MEMBER): the record of U is all there is to it, and G is any other record.
 * Or G is the record that says whether the store may be used (STATE, with MEMBER): it is closed and opened again meanwhile.
 *
 * A step is atomic. What a step reads is read then; that an answer is late is that the replica which gave it is behind.
 */

#ifndef N
#define N 8                     /* entries of the log; the first two are there from the beginning */
#endif
#ifndef STORES
#define STORES 1
#endif
#ifndef CHECKS
#define CHECKS 2                /* checks of store 0 that run at once. Every other store has one */
#endif
#define FIBERS (2 * STORES)     /* 2s and 2s + 1 are of store s */

/* Subjects. Each store has a barrier subject of its own. */
#define U 1
#define G 2
#define B 3                     /* B + store */

/* ---- the log: what is committed. Its sequences are 1 to n ---- */
byte n = 2;
byte typ[N + 1];
bit val[N + 1];                 /* U: the user is revoked. G: the user of the head is; or (STATE) the store is closed */
byte ref[N + 1];                /* U: the guard's sequence that its stage names, 0 without a stage. G: where the stage that its head names stands, 0 if that is of another user */
short lst[N + 1];               /* barriers and fences: what the store lists, a bit for each sequence */
#ifdef PREDECESSORS_UNACKED
byte also[N + 1];               /* records: a sequence that is falsely among those of its older states */
byte tried;
#endif

/* ---- a store ---- */
byte at[STORES];                /* everything in the copy is as of this sequence */
byte era[STORES];               /* the sequence with which the era began */
byte copyU[STORES];             /* the record in the copy, by its sequence; 0: none that is valid in this era */
byte copyG[STORES];
short own[STORES];              /* this store's acknowledged barriers and fences */

/* A record that is read by CERTAIN: registered from before its fence is sent until it is in the copy, or given up. */
byte reads[FIBERS];             /* its subject, or OVERTAKEN */
byte readR[FIBERS];             /* where it stands */
byte readS[FIBERS];             /* the fence's sequence: it waits until the copy is as of that */
#define OVERTAKEN 9

/* ---- what is asked ---- */
bool revoked;                   /* the revocation is committed: the earliest moment at which it can be acknowledged */
bool must[FIBERS];              /* it was acknowledged before the check began */
#ifdef STATE
/* Of a check: 0 there is none, 1 at no moment since it began was the store open and the user not revoked, 2 at one it was. */
byte since[FIBERS];
bool isRevoked, isClosed;       /* as the log says now */
bool stored;                    /* a key stands in the other log, `room_keys` */
bool acked;                     /* and its writer was told so */
bool copied, copy;              /* whoever closed the store has read that log; and has the key */
#endif

byte i, j, x, end, ok;          /* of one step each, 0 between steps */
short seen, quiet;

#define BIT(k) (1 << (k))
#define RECORD(k) (typ[k] == U || typ[k] == G)
/* What a user's record and a guard say together. */
#define VALUE(u, g) ((ref[u] && ref[g] == (u)) -> val[g] : val[u])

inline last(subject) { x = n; do :: typ[x] != subject -> x-- :: else -> break od }

/*
 * The leader takes a message, and a majority has it, in one step: between the two nobody can see the message, and what is proposed
 * meanwhile is behind it. Or another leader comes and takes it back: then nothing has happened, and its sequence is used again.
 */
inline append(subject, value, reference, list) {
  n++;
  typ[n] = subject; val[n] = value; ref[n] = reference; lst[n] = list;
#ifdef STATE
  if :: typ[n] == U -> isRevoked = val[n] :: typ[n] == G -> isClosed = val[n] :: else fi;
  if
  :: !isRevoked && !isClosed -> i = 0; do :: i < FIBERS -> if :: since[i] == 1 -> since[i] = 2 :: else fi; i++ :: else -> break od; i = 0
  :: else
  fi;
#endif
  if
#ifdef STATE
  :: typ[n] == U -> printf("entry %d: user, revoked %d\n", n, val[n])
  :: typ[n] == G -> printf("entry %d: the store is closed: %d\n", n, val[n])
#else
  :: typ[n] == U -> printf("entry %d: user, revoked %d, stage on guard %d\n", n, val[n], ref[n])
  :: typ[n] == G -> printf("entry %d: guard, its head: stage %d, revoked %d\n", n, ref[n], val[n])
#endif
  :: typ[n] >= B -> printf("entry %d: barrier of store %d, lists %x\n", n, typ[n] - B, lst[n])
  fi
}

/* What nobody looks at any more is set to one value: states that differ in nothing else are one. */
inline tidy() {
  x = 0;
  d_step {
    i = 0;
    do
    :: i < STORES ->
       if :: reads[2 * i] == 0 && reads[2 * i + 1] == 0 -> era[i] = 0 :: else fi;
       i++
    :: else -> break
    od;
    x = at[0];
#if STORES > 1
    if :: at[1] < x -> x = at[1] :: else fi;
#endif
    i = 1;
    do
    :: i <= x ->
       if :: typ[i] >= B -> typ[i] = B; lst[i] = 0 :: else fi;
       own[0] = own[0] & (~BIT(i));
#if STORES > 1
       own[1] = own[1] & (~BIT(i));
#endif
       i++
    :: else -> break
    od;
    i = 0; x = 0
  }
}

/* ---- the copy ---- */

#ifdef NO_REGISTER
#define BEING_READ(s, K) false
#else
#define BEING_READ(s, K) (reads[2 * (s)] == K || reads[2 * (s) + 1] == K)
#endif

/* What was fenced goes into the copy as soon as the copy is as of the fence, unless a change of it was met since. */
inline settle(s) {
  j = 2 * s;
  do
  :: j < 2 * s + 2 ->
     if
     :: reads[j] && at[s] >= readS[j] ->
#ifdef NO_ERA_FOR_READS
        ok = 1;
#else
        ok = (readS[j] >= era[s]);
#endif
        if
        :: ok && reads[j] == U -> copyU[s] = readR[j]
        :: ok && reads[j] == G -> copyG[s] = readR[j]
        :: else
        fi;
        reads[j] = 0; readR[j] = 0; readS[j] = 0; ok = 0
     :: else
     fi;
     j++
  :: else -> break
  od;
  j = 0
}

inline overtake(s, K) {
  j = 0;
#if !defined(READ_OVER_CHANGE) && !defined(NO_REGISTER)
  j = 2 * s;
  do :: j < 2 * s + 2 -> if :: reads[j] == K -> reads[j] = OVERTAKEN :: else fi; j++ :: else -> break od;
  j = 0
#endif
}

/* Whether the answer of a replica has entry k. The replica is at p, in the middle of a snapshot of q, or q is p and it is in none. */
inline inAnswer(k, p, q) {
  ok = (k <= p);
  i = k + 1;
  do :: i <= q -> if :: typ[i] == typ[k] -> ok = 0 :: else fi; i++ :: else -> break od;
  i = 0
}

/*
 * A catch-up: everything from at + 1 on, by one direct get from any replica. It counts up to the first gap that is not explained:
 * the highest `end` such that each sequence up to it is there, or held no record, or held an older state of a record that is there
 * in a newer one up to `end`.
 */
inline catchUp(s, p, q) {
  ok = 0;
  d_step {
    seen = 0;
    x = at[s] + 1;
    do :: x <= p -> inAnswer(x, p, q); if :: ok -> seen = seen | BIT(x) :: else fi; x++ :: else -> break od;
    quiet = own[s];
#ifndef NO_LISTS
    x = at[s] + 1;
    do :: x <= p -> if :: (seen & BIT(x)) && typ[x] >= B -> quiet = quiet | lst[x] :: else fi; x++ :: else -> break od;
#endif
    end = p;
    do
    :: end > at[s] ->
       ok = 1;
       x = at[s] + 1;
       do
       :: x <= end ->
          if
          :: (seen & BIT(x)) || (quiet & BIT(x))
          :: else ->
             j = x + 1;
             do
#ifdef PREDECESSOR_BEYOND_END
             :: j <= p ->
#else
             :: j <= end ->
#endif
                if
#ifndef NO_PREDECESSORS
                :: (seen & BIT(j)) && RECORD(j) && typ[j] == typ[x] -> break
#endif
#ifdef PREDECESSORS_UNACKED
                :: (seen & BIT(j)) && RECORD(j) && also[j] == x -> break
#endif
                :: else -> j++
                fi
             :: else -> ok = 0; break
             od;
             j = 0
          fi;
          x++
       :: else -> break
       od;
#ifdef NO_GAP_CHECK
       ok = 1;
#endif
       if :: ok -> break :: else -> end-- fi
    :: else -> break
    od;
    ok = 0;
    x = at[s] + 1;
    do
    :: x <= end ->
       if
       :: (seen & BIT(x)) && typ[x] == U ->
          if :: copyU[s] || BEING_READ(s, U) -> copyU[s] = x :: else fi;
          overtake(s, U)
       :: (seen & BIT(x)) && typ[x] == G ->
          if :: copyG[s] || BEING_READ(s, G) -> copyG[s] = x :: else fi;
          overtake(s, G)
       :: else
       fi;
       x++
    :: else -> break
    od;
    printf("store %d asks from %d: a replica at %d in a snapshot of %d has %x, which counts up to %d\n", s, at[s] + 1, p, q, seen, end);
#ifdef REACHES_PREDECESSOR
    x = at[s] + 1;
    do :: x < end -> assert(typ[x] >= B || (seen & BIT(x)) || end < S); x++ :: else -> break od;
#endif
#ifdef REACHES_LIST
    x = at[s] + 1;
    do :: x < end -> assert(typ[x] < B || (seen & BIT(x)) || (own[s] & BIT(x)) || end < S); x++ :: else -> break od;
#endif
    if :: end > at[s] -> at[s] = end; settle(s) :: else fi;
    seen = 0; quiet = 0; x = 0; end = 0; ok = 0; j = 0
  }
}

/* ---- a check ---- */

/* What `catchUp` reads: a replica at p, in the middle of a snapshot of q. */
inline follow(s) {
  p = at[s] + 1;
  do :: p < n -> p++ :: break od;
  q = p;
  do :: q < n -> q++ :: break od;
  catchUp(s, p, q);
  p = 0; q = 0; tidy()
}

/* The gap stays: a new era. */
inline beginEra(s, S) {
#ifndef NO_ERA
  copyU[s] = 0;
#ifndef STATE_OUTLIVES_ERA
  copyG[s] = 0;
#endif
#endif
  at[s] = S; era[s] = S; settle(s);
  printf("store %d begins an era at %d\n", s, at[s]); tidy()
}

#ifdef STATE
/* The copy's own way to say that the store was open at `moment`: the state stood there already, and stands there still. */
#if defined(STATE_BEFORE)
#define COPY_TELLS(moment) (copyG[s])
#else
#define COPY_TELLS(moment) (copyG[s] && at[s] >= moment)
#endif
#ifdef STATE_LATER
#define OPEN_AT(state, moment) (!val[state])
#else
#define OPEN_AT(state, moment) (!val[state] && state <= moment)
#endif
/*
 * Whether the store was open at `moment`, by the copy, which is brought there, or by a fence. The state has a place of its own among
 * what is being proved: that of the store's second check, of which there is none.
 */
inline openAt(moment, isOpen) {
  do
  :: atomic { COPY_TELLS(moment) -> isOpen = OPEN_AT(copyG[s], moment); break }
  :: atomic { copyG[s] == 0 && n < N ->
#ifdef STATE_UNFENCED
       g = n; do :: g > 2 -> g-- :: break od; if :: typ[g] == G :: else -> g = 2 fi;
#else
       f = f + 1; certain(G, g); f = f - 1;
#endif
       isOpen = OPEN_AT(g, moment); g = 0; tidy(); break }
  :: atomic { copyG[s] && at[s] < moment -> follow(s) }
  :: atomic { copyG[s] && at[s] < moment -> beginEra(s, moment) }
  od
}
#endif

inline answer(no) {
#ifdef STATE
  assert(no || since[f] == 2);                        /* a yes, and at no moment since the check began was the store open and the user not revoked */
  since[f] = 0;
#endif
  printf("store %d answers %d (1: revoked), asked after the revocation was acknowledged: %d\n", s, no, must[f]);
  assert(no || !must[f]);                             /* a yes, and the revocation was acknowledged before the check began */
  assert(!no || revoked);                             /* `revoked`, and nobody was */
  no = 0; must[f] = 0; S = 0; r = 0; g = 0; gs = 0;
  tidy()
}

/*
 * CERTAIN: a direct get from any replica, and a fence of what was found. A fence that is refused has changed nothing, and the record
 * is read again: so the only step here is the fence that the leader accepts. It is of the last state, whoever had it.
 */
inline certain(K, found) {
#ifdef NO_FENCE
  found = n; do :: found > 1 -> found-- :: break od;
  if :: typ[found] == K :: else -> found = K fi;
#else
  last(K); found = x; x = 0;
#endif
  append(B + s, 0, 0, own[s]);
  own[s] = own[s] | BIT(n);
  reads[f] = K; readR[f] = found; readS[f] = n;         /* registered before it is sent */
  printf("that is the fence of the record at %d\n", found)
}

proctype Check(byte f; byte s) {
  byte S, r, g, gs, p, q;
  bool no;
#ifdef STATE
  bool isOpen;
#endif
begin:
  /* A check that has begun and waits for a barrier to be sent has done nothing yet: it begins here at the last moment. */
  if
  :: atomic { n < N ->
#ifdef STATE
       since[f] = (!isRevoked && !isClosed -> 2 : 1);
#else
       must[f] = revoked;
#endif
       append(B + s, 0, 0, own[s]);
       own[s] = own[s] | BIT(n);
       S = n }
  :: atomic { n < N -> append(B + s, 0, 0, own[s]); goto begin }    /* it is stored, and its acknowledgement is lost: nothing knows of it */
#ifdef STATE
  :: atomic { n < N && copyU[s] == 0 ->                /* what is not kept needs no barrier: a fence is one */
       since[f] = (!isRevoked && !isClosed -> 2 : 1);
       certain(U, r); S = n; goto opened }
#endif
#ifdef LISTS_UNACKED
  :: atomic { n < N && !(own[s] & BIT(n + 1)) -> own[s] = own[s] | BIT(n + 1); goto begin }
#endif
#ifdef BARRIER_BEFORE
  :: atomic { must[f] = revoked; S = n; do :: S > 2 && !(own[s] & BIT(S)) -> S-- :: else -> break od }
#endif
  :: atomic { copyU[s] -> copyU[s] = 0; goto begin }  /* bounded memory */
  fi;
  do
  :: at[s] >= S -> break
  :: atomic { at[s] < S ->                             /* all since then was this store's own: no read is needed */
       d_step {
         ok = 1; x = at[s] + 1;
         do :: x <= S -> if :: own[s] & BIT(x) :: else -> ok = 0 fi; x++ :: else -> break od;
         x = 0
       }
       if :: ok -> ok = 0; at[s] = S; settle(s); tidy() :: else fi }
  :: atomic { at[s] < S -> follow(s) }
  :: atomic { at[s] < S -> beginEra(s, S) }
  od;
  S = 0;
#ifdef STATE
  if
  :: atomic { copyU[s] -> r = copyU[s]; S = at[s] }
  :: atomic { copyU[s] == 0 && n < N -> certain(U, r); S = n }
  fi;
opened:
  openAt(S, isOpen);
  atomic {
    no = val[r];
    if
    :: isOpen ->
#ifdef REACHES_ALLOWED_AGAIN
       assert(no || r < 3 || n < 5 || S < 4 || !(typ[3] == G && val[3] == 1));
#endif
       answer(no)
    :: else -> printf("store %d answers: unavailable\n", s); no = 1; since[f] = 0; S = 0; r = 0; tidy()
    fi;
    isOpen = 0; no = 0 }
  goto begin;
#endif
  if
  :: atomic { copyU[s] && (ref[copyU[s]] == 0 || copyG[s]) ->
       no = VALUE(copyU[s], copyG[s]);
#ifdef REACHES_COPY
       assert(no || readS[f] == 0 && copyU[s] < 3);
#endif
#ifdef REACHES_STAGE_IN_COPY
       assert(ref[copyU[s]] == 0 || no == 0);
#endif
       answer(no); goto begin }
  :: atomic { copyU[s] == 0 || (ref[copyU[s]] && copyG[s] == 0) -> skip }
  fi;
user:
  atomic { n < N ->
    certain(U, r);
    if
    :: ref[r] == 0 -> no = val[r]; answer(no); goto begin
#ifdef STAGE_AFTER_GUARD
    :: ref[r] && g -> no = VALUE(r, g); answer(no); goto begin
    :: ref[r] && g == 0 -> tidy()
#else
    :: ref[r] && g && r <= gs ->
       no = VALUE(r, g);
#ifdef REACHES_STAGE_BY_FENCES
       assert(!no);
#endif
       answer(no); goto begin
    :: ref[r] && (g == 0 || r > gs) -> tidy()
#endif
    fi;
#ifndef GUARD_AFTER_USER
    r = 0;
#endif
    g = 0; gs = 0 }
  /* Its value is the guard's to say: the guard as of one moment, and then the user's record, if it stood there already. */
  if
#ifdef GUARD_AFTER_USER
  :: atomic { n < N -> certain(G, g); no = VALUE(r, g); answer(no); goto begin }
#else
  :: atomic { copyG[s] -> g = copyG[s]; gs = at[s]; goto user }
  :: atomic { n < N -> certain(G, g); gs = n; tidy(); goto user }
#endif
  fi
}

/* What a direct get did not find: `unknown`, once the leader has accepted a fence that expects none. */
proctype Absent(byte s) {
  byte p, q;
  do
  :: atomic {
       p = 1; do :: p < n -> p++ :: break od;
       q = p; do :: q < n -> q++ :: break od;
       ok = 0;
       d_step {
         j = 1; x = 0;
         do :: j <= p -> inAnswer(j, p, q); if :: ok && typ[j] == U -> x = j :: else fi; j++ :: else -> break od;
         j = 0; ok = 0; p = 0; q = 0
       }
       if
       :: x == 0 ->
#ifndef ABSENCE_UNFENCED
          last(U);                                    /* refused: it is there */
#endif
          assert(x); x = 0
       :: else -> x = 0
       fi }
  od
}

/*
 * ---- writers ----
 * A writer reads any state of a record that was ever committed, and can stop for any time anywhere. A write whose condition does not
 * hold changes nothing, and the writer begins anew: so only a write that the leader accepts is a step, and what the writer remembers
 * between two steps is what counts. Each of them does what it does as often as the log has room.
 */
inline anyGuard(g) { g = n; do :: g > 2 -> g-- :: break od; if :: typ[g] == G :: else -> g = 2 fi }

/* A stage that the guard does not name may still be committed, unless the guard is past what the stage names. */
#define OPEN(u, g) (ref[u] && ref[g] != (u) && (g) <= ref[u])

/* Writes the guard unchanged, so that the stage can no longer be committed. */
inline rewriteGuard(g) {
  last(G);
  if :: x == g -> x = 0; append(G, val[g], ref[g], 0) :: else -> x = 0 fi
}

/* Revokes U, who is an admin: stages it, and commits by the guard. What the guard's head before says of U, the stage carries over. */
proctype RevokeAdmin() {
  byte r, g, st;
  do
  :: atomic { n < N && st == 0 ->
       last(U); r = x; x = 0; anyGuard(g);
       if
       :: OPEN(r, g) -> rewriteGuard(g); g = 0
       :: else ->
          if
          :: VALUE(r, g) -> g = 0                         /* done */
          :: else -> append(U, 0, g, 0); st = n
          fi
       fi;
       r = 0 }
  :: atomic { n < N && st ->
       last(G);
       if :: x == g -> append(G, 1, st, 0); revoked = true :: else fi;
       x = 0; st = 0; g = 0 }
  od
}

/* A change of another admin. The guard's head before is put into its user's record first. */
proctype ChangeOther() {
  byte g;
  do
  :: atomic { n < N ->
       last(G); g = x; last(U);
       if
       :: ref[g] && x == ref[g] ->
          if
          :: append(U, val[g], 0, 0)
#ifdef APPLY_TRUSTS_ANY_READ
          :: append(G, 0, 0, 0)                         /* a replica that lags had an older state, or none */
#endif
          fi
       :: else -> append(G, 0, 0, 0)                    /* it is there, or was carried over, or is of another user */
       fi;
       g = 0; x = 0 }
  od
}

/* A change of U's own record: a new name. Where U is no admin, it can be the revocation. */
proctype ChangeOwn() {
  byte r, g;
  do
  :: atomic { n < N ->
       last(U); r = x; x = 0;
#ifdef MEMBER
       if :: append(U, 1, 0, 0); revoked = true :: append(U, val[r], 0, 0) fi;
#else
       anyGuard(g);
       if
#ifndef NO_GUARD_REWRITE
       :: OPEN(r, g) -> rewriteGuard(g)
#endif
       :: else -> x = VALUE(r, g); append(U, x, 0, 0); x = 0
       fi;
#endif
       r = 0; g = 0 }
  od
}

#ifdef MEMBER
/* A record that has nothing to do with U. */
proctype ChangeAnother() {
  do
  :: atomic { n < N ->
       append(G, 0, 0, 0);
#ifdef PREDECESSORS_UNACKED
       also[n] = tried; tried = 0;
#endif
       skip }
#ifdef PREDECESSORS_UNACKED
  :: atomic { n < N && tried == 0 -> tried = n + 1 }    /* an attempt that was taken back: its writer takes it for a state of the record */
#endif
  od
}
#endif

#ifdef STATE
/* Whoever moves the store, or fills it, closes it and opens it again. */
proctype Mover() {
  do
  :: atomic { n < N -> last(G); append(G, 1 - val[x], 0, 0); x = 0; copied = 0; copy = 0 }
  :: atomic { isClosed && !copied -> copied = 1; copy = stored; assert(!acked || copy) }
  od
}

/* A write that commits, of store s: it is acknowledged if the store was open where it stands. */
proctype Write(byte f; byte s) {
  byte w, g, p, q;
  bool isOpen, wasOpen;
  do
  :: atomic { n < N -> last(U); append(U, val[x], 0, 0); x = 0; w = n; wasOpen = !isClosed };
#ifdef WRITE_TRUSTS_BEFORE
     isOpen = (copyG[s] && !val[copyG[s]]);
#else
     if
     :: atomic { at[s] < w ->                          /* the copy takes it as it was written, if all before was this store's own */
          d_step {
            ok = 1; x = at[s] + 1;
            do :: x < w -> if :: own[s] & BIT(x) :: else -> ok = 0 fi; x++ :: else -> break od;
            x = 0
          }
          if
          :: ok -> ok = 0; if :: copyU[s] || BEING_READ(s, U) -> copyU[s] = w :: else fi; overtake(s, U); at[s] = w; settle(s); tidy()
          :: else
          fi }
     :: skip
     fi;
     openAt(w, isOpen);
#endif
     atomic {
       if
       :: isOpen -> printf("the write at %d is acknowledged\n", w); assert(wasOpen)
       :: else -> printf("the write at %d: unknown\n", w)
       fi;
       w = 0; isOpen = 0; wasOpen = 0 }
  od
}

/* A key, in the other log, which says nothing of the store: a barrier in this one, sent after it was acknowledged, tells. */
proctype Put(byte f; byte s) {
  byte S, g, p, q;
  bool isOpen;
#ifdef PUT_AFTER_BARRIER
  atomic { n < N -> append(B + s, 0, 0, own[s]); own[s] = own[s] | BIT(n); S = n };
  stored = 1;
#else
  stored = 1;
  atomic { n < N -> append(B + s, 0, 0, own[s]); own[s] = own[s] | BIT(n); S = n };
#endif
  openAt(S, isOpen);
  atomic {
    if
    :: isOpen -> acked = 1; printf("the key is acknowledged\n"); assert(!copied || copy)
    :: else
    fi;
    S = 0; isOpen = 0 }
}
#endif

init {
  atomic {
    typ[1] = U; typ[2] = G;
#ifdef STATE
    if :: val[2] = 1; isClosed = 1 :: skip fi;         /* it is being filled */
#endif
    at[0] = 2;
    if :: copyU[0] = 1; copyG[0] = 2 :: skip fi;
#ifdef WRITES
    run Write(0, 0);
#elif defined(PUTS)
    run Put(0, 0);
#else
    run Check(0, 0);
#endif
#if CHECKS > 1
    run Check(1, 0);
#endif
#if STORES > 1
    at[1] = 2;
    run Check(2, 1);
#endif
#ifdef CHECK_ABSENCE
    run Absent(0);
#endif
    run ChangeOwn();
#if defined(STATE)
    run Mover()
#elif defined(MEMBER)
    run ChangeAnother()
#else
    run RevokeAdmin();
    run ChangeOther()
#endif
  }
}
