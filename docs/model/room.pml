/*
 * The commit of a room: a record R in `rooms`, a log of one entry, whose head is the last change of the membership, and rows in
 * `members`. Whoever asks for members gets a state of the room that was true after he began; so nobody sees one whose removal was
 * acknowledged before, and nobody's change is lost. What the sweep removes is of no member, now and later.
 * README.md says what is modelled, which code each step stands for, and how to run it.
 *
 * A step is atomic; between two any process can stop for any time. Change, sweep and readers go on as long as the logs have room.
 */

#ifndef R
#define R 5                     /* entries of the room's record; the first is there from the beginning */
#endif
#ifdef COMPACT
#define M (R + 6)               /* entries of `members` */
#else
#define M (R + 4)
#endif
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef COPIERS
#define COPIERS 1
#endif
#define IDS 5                   /* memberships, each with an id of its own; 0 is none */
#define BIT(k) (1 << (k))

/* The two endpoints are 1 and 2. */

/* ---- `rooms`: every record that was committed, by its sequence, 1 to r. Only the last is there; others are what somebody once read */
byte r;
byte inc[R + 1];                /* the incarnation; 0: a tombstone */
byte ros[R + 1];                /* the roster: the id under which its rows stand */
byte cop[R + 1];                /* the id under which they are being copied; 0: they are not */
byte ver[R + 1];                /* v */
byte least[R + 1];              /* membersSeq */
byte size[R + 1];               /* how many members */
byte headOf[R + 1];             /* the head's endpoint; 0: no head */
bit headIn[R + 1];              /* is a member; or is gone */
byte headId[R + 1];
byte headAfter[R + 1];
byte headVer[R + 1];

/* ---- `members`: rows, by their sequence, 1 to m; a row is keyed by endpoint and roster */
byte m;
byte rowOf[M + 1];
byte rowRos[M + 1];
bit rowIn[M + 1];
byte rowId[M + 1];
byte rowVer[M + 1];
byte rowSize[M + 1];
bool purged[M + 1];

/* ---- the index: an entry for each membership */
byte entries;                   /* a bit for each id */
byte ids;
byte idOf[IDS + 1];
byte idInc[IDS + 1];
byte incs;
byte rosters;
byte dead;                      /* incarnations that are over, a bit for each: to be purged by whoever ended them */
byte old;                       /* rosters of which that is so */

/* ---- the truth: the state that the commits make */
bit isIn[3];
byte idIn[3];
#define STATE BIT(isIn[1] + 2 * isIn[2])
byte used;                      /* memberships that were ever */
byte since[2];                  /* the states that were true since a reader began, a bit for each */

byte x, i;

/* The last row of an endpoint, of those up to a sequence. */
inline lastRow(endpoint, roster, upTo) {
  x = upTo;
  do
  :: x == 0 -> break
  :: x && rowOf[x] == endpoint && rowRos[x] == roster && !purged[x] -> break
  :: else -> x--
  od
}

inline check(id) { assert(!isIn[idOf[id]] || idIn[idOf[id]] != id) }    /* no member's entry is removed */

/* Puts a head into `members`, under the condition that its key is still at the sequence which the head names. */
inline apply(q) {
  lastRow(headOf[q], ros[q], m);
#ifdef APPLY_UNCONDITIONAL
  x = headAfter[q];
#endif
  if
  :: x == headAfter[q] ->
     m++;
     rowOf[m] = headOf[q]; rowRos[m] = ros[q]; rowIn[m] = headIn[q]; rowId[m] = headId[q]; rowVer[m] = headVer[q]; rowSize[m] = size[q];
     printf("row %d: endpoint %d, roster %d, membership %d, version %d, is in %d\n", m, rowOf[m], rowRos[m], rowId[m], rowVer[m], rowIn[m]);
     x = m
  :: else ->                                            /* somebody did it before, or it is of a room that is over */
     if
     :: x && rowVer[x] >= headVer[q]
     :: else -> x = 0;
#ifndef MAY_STICK
        assert(q != r);                                /* the room could never be changed again */
#endif
        skip
     fi
  fi
}

inline commit(incarnation, version, membersSeq, count) {
  r++;
  printf("record %d: incarnation %d, version %d, membersSeq %d, members %d\n", r, incarnation, version, membersSeq, count);
  inc[r] = incarnation; ver[r] = version; least[r] = membersSeq; size[r] = count;
  ros[r] = ros[r - 1]; cop[r] = (incarnation && incarnation == inc[r - 1] -> cop[r - 1] : 0);
  since[0] = since[0] | STATE; since[1] = since[1] | STATE
}

#if defined(COMMIT_UNCONDITIONAL)
#define HOLDS true
#elif defined(TOMBSTONE_REMOVED)
#define HOLDS (q == r || (nextIn == 2 && inc[r] == 0))   /* `there is none` is true again */
#else
#define HOLDS (q == r)
#endif

proctype Writer() {
  byte q, e, after, id, applied, nextIn;
  bool fromHead;
#ifdef ENTRY_AFTER_COMMIT
  byte late;
#endif
again:
  /*
   * Reads the record and a row, and lets the rules decide. A record that is not the last one was so once: whoever read it then has
   * slept since. A row that is not the last one makes the fence fail, and the attempt begin anew: so here it is. The index entry is put in place.
   */
  atomic { r < R && m < M ->
    q = r;
    if :: e = 1 :: e = 2 fi;
    if
    :: inc[q] ->
       lastRow(e, ros[q], m);
#ifdef NO_AFTER_FENCE
       do :: x && rowOf[x] == e && rowRos[x] == ros[q] && !purged[x] -> break :: x -> x-- :: x == 0 -> break od;
       if :: x -> i = x - 1; do :: i && !(rowOf[i] == e && rowRos[i] == ros[q] && !purged[i]) -> i-- :: else -> break od; if :: x = i :: skip fi; i = 0 :: else fi;
#endif
       after = x;
       fromHead = (headOf[q] == e && (x == 0 || rowVer[x] < headVer[q]));
       if
       :: fromHead -> nextIn = headIn[q]; id = headId[q]
       :: !fromHead && x -> nextIn = rowIn[x]; id = rowId[x]
       :: else -> nextIn = 0; id = 0
       fi;
       x = 0;
       if
       :: nextIn -> nextIn = 0                         /* remove */
       :: nextIn -> skip                               /* join, change of owner */
       :: !nextIn && ids < IDS -> ids++; id = ids; idOf[id] = e; idInc[id] = inc[q]; nextIn = 1       /* add */
#ifndef ENTRY_AFTER_COMMIT
          ; entries = entries | BIT(id)
#endif
       fi
    :: inc[q] == 0 && ids < IDS && incs < 3 && rosters < 3 ->         /* create: under the ids of a new incarnation */
       ids++; incs++; rosters++; id = ids; after = rosters; idOf[id] = e; idInc[id] = incs; entries = entries | BIT(id);
       nextIn = 2
    :: inc[q] && q == r ->                             /* delete */
       dead = dead | BIT(inc[q]); old = old | BIT(ros[q]);
       if :: cop[q] -> old = old | BIT(cop[q]) :: else fi;
       isIn[1] = 0; isIn[2] = 0; idIn[1] = 0; idIn[2] = 0;
       commit(0, 0, 0, 0);
       q = 0; e = 0;
       goto again
    fi;
    printf("a writer has read record %d: endpoint %d, membership %d, to be in: %d (2: create)\n", q, e, id, nextIn) }
  /* Puts the head before into `members`. */
  if
  :: atomic { nextIn >= 2 -> skip }
#ifdef NO_APPLY
  :: atomic { nextIn < 2 -> applied = m }
#else
  :: atomic { nextIn < 2 && m < M ->
       if
       :: headOf[q] -> apply(q); applied = x; x = 0
       :: else -> applied = least[q]
       fi }
#endif
  fi;
#ifdef UNDONE_BEFORE_KNOWN
  if :: atomic { id && !(isIn[e] && idIn[e] == id) -> entries = entries & (~BIT(id)) } :: skip fi;
#endif
  /* Commits, if the record is as it was read. */
  atomic {
    if
    :: HOLDS && (nextIn == 2 || applied) && r < R ->
       /* The change is one of what is so: it adds who is none, or changes or removes this very membership. */
       assert((isIn[e] && idIn[e] == id) || (!isIn[e] && nextIn && !(used & BIT(id))));
       used = used | BIT(id);
       if
       :: nextIn == 2 -> isIn[e] = 1
       :: else -> isIn[e] = nextIn
       fi;
       idIn[e] = (isIn[e] -> id : 0);
       if
       :: nextIn == 2 -> commit(idInc[id], 1, 0, 1); ros[r] = after; headAfter[r] = 0
       :: else ->
          x = (applied > least[q] -> applied : least[q]);
          commit(inc[q], ver[q] + 1, x, isIn[1] + isIn[2]);
          x = 0; ros[r] = ros[q];
          headAfter[r] = (fromHead -> applied : after)
       fi;
       headOf[r] = e; headIn[r] = isIn[e]; headId[r] = id; headVer[r] = ver[r];
       printf("its head: endpoint %d, membership %d, is in %d, after %d\n", e, id, headIn[r], headAfter[r]);
       if :: !isIn[e] -> entries = entries & (~BIT(id)) :: skip fi              /* at once, or left to the sweep */
    :: !(HOLDS && (nextIn == 2 || applied) && r < R) ->
       if :: nextIn == 2 -> old = old | BIT(after) :: else fi;
       if :: (nextIn == 2 || (entries & BIT(id))) && idIn[e] != id -> check(id); if :: entries = entries & (~BIT(id)) :: skip fi :: else fi
    fi;
#ifdef ENTRY_AFTER_COMMIT
    late = id;
#endif
    q = 0; e = 0; after = 0; id = 0; applied = 0; nextIn = 0; fromHead = 0 }
#ifdef ENTRY_AFTER_COMMIT
  atomic { entries = entries | BIT(late); late = 0 }
#endif
  goto again
}

/* Whoever deleted a room purges what belonged to it, at any time, again and again. */
proctype Purge() {
  do
  :: atomic { old ->
       if :: x = 1 :: x = 2 :: x = 3 fi;
       if
       :: old & BIT(x) -> i = 1; do :: i <= m -> if :: rowRos[i] == x -> purged[i] = 1 :: else fi; i++ :: else -> break od; i = 0
       :: else
       fi;
       x = 0 }
  :: atomic { dead ->
       if :: x = 1 :: x = 2 :: x = 3 fi;
       if
       :: dead & BIT(x) ->
          i = 1; do :: i <= ids -> if :: idInc[i] == x && (entries & BIT(i)) -> check(i); entries = entries & (~BIT(i)) :: else fi; i++ :: else -> break od;
          i = 0
       :: else
       fi;
       x = 0 }
#ifdef PURGE_REMOVED
  :: atomic { m ->                                      /* rows of who was removed */
       i = 1; do :: i <= m -> lastRow(rowOf[i], rowRos[i], m); if :: x == i && !rowIn[i] && (ros[r] != rowRos[i] || rowVer[i] < ver[r]) -> break :: else -> i++ fi :: else -> break od;
       if :: i <= m -> purged[i] = 1; x = 1; do :: x < i -> if :: rowOf[x] == rowOf[i] && rowRos[x] == rowRos[i] -> purged[x] = 1 :: else fi; x++ :: else -> break od :: else fi;
       i = 0; x = 0 }
#endif
  od
}

/* The record as it is, at another place. */
inline unchanged() {
  commit(inc[r - 1], ver[r - 1], least[r - 1], size[r - 1]);
  headOf[r] = headOf[r - 1]; headIn[r] = headIn[r - 1]; headId[r] = headId[r - 1]; headAfter[r] = headAfter[r - 1]; headVer[r] = headVer[r - 1]
}

inline rewrite() {
  x = 0;
#ifndef NO_FENCE_IN_SWEEP
  unchanged()
#endif
}

#define OVER(k, e, row) (headOf[k] == (e) && ((row) == 0 || rowVer[row] < headVer[k]))

#ifdef COMPACT
/*
 * The members' rows are copied under the id of a new roster, in rounds, while changes go on, and a commit of the room's record makes
 * that the room's. A copier stops anywhere, for any time.
 */
byte lateRow, lateAfter;        /* a message that was sent twice: its second copy comes at any time */

#ifdef COPY_NAME_IGNORED
#define NAMED(k, id) (inc[k] && ros[k] != id)
#else
#define NAMED(k, id) (inc[k] && cop[k] == id)
#endif
#ifdef COPY_COMMIT_UNCONDITIONAL
#define UNCHANGED(k) (inc[r] == inc[k])
#else
#define UNCHANGED(k) (k == r)
#endif

proctype Copier() {
  byte id, k, e;
  byte found[3], after[3];      /* of each endpoint the row as this round found it, and its own copy of it, by their sequences */
  bit isHead[3];                /* it was in the record's head */
  atomic { inc[r] && r < R && rosters < 3 ->
    rosters++; id = rosters;
#ifndef COPY_UNNAMED
    if :: cop[r] -> old = old | BIT(cop[r]) :: else fi;
    unchanged(); cop[r] = id;
#endif
    printf("a copy to roster %d begins\n", id) }
round:
  /* The record as it stands, and the rows as of it. */
  atomic {
#ifdef COPY_UNNAMED
    if :: inc[r] -> skip :: else -> goto over fi;
#else
    if :: NAMED(r, id) -> skip :: else -> goto over fi;
#endif
    k = r; e = 1;
    do
    :: e < 3 ->
       lastRow(e, ros[k], m);
#ifdef COPY_READ_MISSES
       if :: x = 0 :: skip fi;
#endif
       found[e] = x; isHead[e] = OVER(k, e, x);
       x = 0; e++
    :: else -> break
    od;
    e = 1 }
  do
  :: atomic { e < 3 && m < M ->
       lastRow(e, id, m);
       if
       :: (!isHead[e] && found[e] == 0) -> x = 0       /* there never was one */
       :: isHead[e] && after[e] == 0 && !headIn[k] -> x = 0
       :: !isHead[e] && found[e] && after[e] == 0 && !rowIn[found[e]] -> x = 0
       :: isHead[e] && after[e] && rowVer[after[e]] == headVer[k] -> x = 0
       :: !isHead[e] && found[e] && after[e] && rowVer[after[e]] == rowVer[found[e]] -> x = 0
       :: else ->
          if
#ifdef COPY_PURGES
          :: after[e] && ((isHead[e] && !headIn[k]) || (!isHead[e] && !rowIn[found[e]])) ->    /* who left meanwhile */
             i = 1; do :: i <= m -> if :: rowOf[i] == e && rowRos[i] == id -> purged[i] = 1 :: else fi; i++ :: else -> break od; i = 0;
             after[e] = 0; x = 0
#elif defined(COPY_LEAVES_LEAVERS)
          :: after[e] && ((isHead[e] && !headIn[k]) || (!isHead[e] && !rowIn[found[e]])) -> x = 0
#endif
          :: else ->
             if
             :: x != after[e] -> x = 0; goto over      /* it is not as it was written: somebody purges it */
             :: x == after[e] ->
                m++;
                rowOf[m] = e; rowRos[m] = id;
                if
                :: isHead[e] -> rowIn[m] = headIn[k]; rowId[m] = headId[k]; rowVer[m] = headVer[k]; rowSize[m] = size[k]
                :: else -> x = found[e]; rowIn[m] = rowIn[x]; rowId[m] = rowId[x]; rowVer[m] = rowVer[x]; rowSize[m] = rowSize[x]
                fi;
                printf("row %d: endpoint %d, copied to roster %d, membership %d, version %d, is in %d\n", m, e, id, rowId[m], rowVer[m], rowIn[m]);
#ifdef LATE
                if :: lateRow == 0 -> lateRow = m; lateAfter = after[e] :: skip fi;
#endif
                after[e] = m; x = 0
             fi
          fi
       fi;
       e++ }
  :: e == 3 -> break
  od;
  atomic {
    e = 0; found[1] = 0; found[2] = 0; isHead[1] = 0; isHead[2] = 0;
    if
    :: UNCHANGED(k) && r < R ->
       unchanged();
       headOf[r] = 0; headIn[r] = 0; headId[r] = 0; headAfter[r] = 0; headVer[r] = 0;
       old = old | BIT(ros[r]); ros[r] = id; cop[r] = 0;
       if :: after[1] > least[r] -> least[r] = after[1] :: else fi;
       if :: after[2] > least[r] -> least[r] = after[2] :: else fi;
       printf("the room's roster is %d\n", id);
       id = 0
    :: else -> k = 0; goto round
    fi;
    k = 0; after[1] = 0; after[2] = 0 }
#ifdef REACHES_SECOND_ROUND
  assert(m < 5);
#endif
  goto end;
over:
  atomic {
    old = old | BIT(id);
    printf("the copy to roster %d is over\n", id);
    id = 0; k = 0; e = 0; after[1] = 0; after[2] = 0; found[1] = 0; found[2] = 0; isHead[1] = 0; isHead[2] = 0 }
end:
  skip
}

#ifdef LATE
proctype Late() {
  do
  :: atomic { lateRow && m < M ->
       lastRow(rowOf[lateRow], rowRos[lateRow], m);
#ifdef COPIES_UNCONDITIONAL
       x = lateAfter;
#endif
       if
       :: x == lateAfter ->
          m++; i = lateRow;
          rowOf[m] = rowOf[i]; rowRos[m] = rowRos[i]; rowIn[m] = rowIn[i]; rowId[m] = rowId[i]; rowVer[m] = rowVer[i]; rowSize[m] = rowSize[i];
          printf("row %d: the second copy of row %d\n", m, i);
          i = 0; lateRow = 0; lateAfter = 0
       :: else
       fi;
       x = 0 }
  od
}
#endif
#endif

/*
 * The sweep looks at an entry of the index. What may still be committed is fenced: the room's record is rewritten unchanged (or a
 * tombstone is). The record and the row are read by CERTAIN: the row as of any moment at or after the record's membersSeq.
 */
proctype Sweep() {
  byte id, p;
  bool open;
  do
  :: atomic { entries && r < R ->
       id = 1; do :: id < ids -> id++ :: break od;
       if
       :: entries & BIT(id) ->
          if
          :: inc[r] == 0 -> open = 1
          :: inc[r] && inc[r] != idInc[id] -> check(id); entries = entries & (~BIT(id))
          :: inc[r] == idInc[id] ->
             p = least[r]; do :: p < m -> p++ :: break od;
             lastRow(idOf[id], ros[r], p);
#ifdef SWEEP_TRUSTS_ANY_READ
             if :: x = 0 :: skip fi;
#endif
             if
             :: headOf[r] == idOf[id] && headId[r] == id && (x == 0 || rowVer[x] < headVer[r]) ->
                if :: headIn[r] -> skip :: else -> check(id); entries = entries & (~BIT(id)) fi
             :: !(headOf[r] == idOf[id] && headId[r] == id && (x == 0 || rowVer[x] < headVer[r])) && x && rowId[x] == id ->
                if :: rowIn[x] -> skip :: else -> check(id); entries = entries & (~BIT(id)) fi
             :: else -> open = 1
             fi;
             x = 0; p = 0
          fi;
          if
          :: open ->
             rewrite();
             printf("the sweep removes the entry of membership %d\n", id);
             check(id); entries = entries & (~BIT(id)); open = 0
          :: else
          fi
       :: else
       fi;
       id = 0 }
#ifdef COMPACT
  :: atomic { r < R ->                                  /* rows of a roster that is not the room's: one that is to be committed, perhaps */
       id = 1; do :: id < rosters -> id++ :: break od;
       if
       :: id != ros[r] && id != cop[r] && !(old & BIT(id)) && inc[r] -> rewrite(); old = old | BIT(id)
       :: else
       fi;
       id = 0 }
#endif
  od
}

/* What listForEndpoint rests on: for every member there is an entry of the index. */
proctype Index() {
  do
  :: atomic { assert(!isIn[1] || (entries & BIT(idIn[1]))); assert(!isIn[2] || (entries & BIT(idIn[2]))) }
  od
}

/*
 * isMember(1). The record is of a moment after the call began, by the copy or by CERTAIN; here the call begins at that moment. The row was
 * fenced with P, some time ago or now: it is used if P is at or after membersSeq.
 */
proctype IsMember(byte me) {
  byte k, p;
  bit yes;
again:
  do
  :: atomic { k == 0 -> k = r; since[me] = STATE }
  :: atomic { k ->
       if
       :: inc[k] == 0 -> yes = 0
       :: else ->
#ifdef NO_MEMBERS_SEQ
          p = 0;
#else
          p = least[k];
#endif
          do :: p < m -> p++ :: break od;
          lastRow(1, ros[k], p);
#ifndef ABSENT_ROW_BELIEVED
          /* No row: it counts only if the room still has that roster. */
          if :: x == 0 && !OVER(k, 1, x) && ros[r] != ros[k] -> p = 0; k = 0; since[me] = 0; goto again :: else fi;
#endif
#ifdef HEAD_NOT_LAID_OVER
          yes = (x -> rowIn[x] : 0);
#else
          if :: OVER(k, 1, x) -> yes = headIn[k] :: else -> yes = (x -> rowIn[x] : 0) fi;
#endif
          x = 0; p = 0
       fi;
#ifdef REACHES_NEW_INCARNATION
       assert(!yes || inc[k] < 2);
#endif
       printf("isMember, by record %d: %d\n", k, yes);
       if
       :: yes -> assert(since[me] & (BIT(1) | BIT(3)))
       :: else -> assert(since[me] & (BIT(0) | BIT(2)))
       fi;
       k = 0; yes = 0; since[me] = 0 }
  od
}

/* The roster: the record, and then the rows, one after the other, from any replica that is at or after membersSeq, and may miss one. */
proctype Roster(byte me) {
  byte k, row1, row2, p, v, count;
  do
  :: atomic { k == 0 && r && inc[r] -> k = r; since[me] = STATE;
       p = least[k]; do :: p < m -> p++ :: break od;
       lastRow(1, ros[k], p); row1 = x; x = 0; p = 0 }
  :: atomic { k ->
       p = least[k]; do :: p < m -> p++ :: break od;
       lastRow(2, ros[k], p); row2 = x; x = 0; p = 0;
       lastRow(1, ros[k], m);
       if :: row1 && x != row1 -> row1 = 0 :: skip fi;  /* missed: it was superseded */
       lastRow(2, ros[k], m);
       if :: row2 && x != row2 -> row2 = 0 :: skip fi;
       v = ver[k];
       if :: row1 && rowVer[row1] > v -> v = rowVer[row1] :: else fi;
       if :: row2 && rowVer[row2] > v -> v = rowVer[row2] :: else fi;
       x = 0;
       if :: OVER(k, 1, row1) -> x = headIn[k] :: else -> x = (row1 -> rowIn[row1] : 0) fi;
       if :: OVER(k, 2, row2) -> x = x + 2 * headIn[k] :: else -> x = x + 2 * (row2 -> rowIn[row2] : 0) fi;
       count = (x & 1) + (x >> 1);
       if
       :: v == ver[k] && count == size[k] -> assert(since[me] & BIT(x))
#ifdef ROSTER_DOES_NOT_COUNT
       :: v == ver[k] && count != size[k] -> assert(since[me] & BIT(x))
#endif
       :: v > ver[k] ->
          i = (row1 && rowVer[row1] == v -> row1 : row2);
          if
          :: count == rowSize[i] && !OVER(k, 1, row1) && !OVER(k, 2, row2) && inc[r] == inc[k] ->
#ifdef REACHES_NEWER_ROWS
             assert(false);
#endif
             assert(since[me] & BIT(x))
          :: else                                       /* again */
          fi;
          i = 0
       :: else
       fi;
       k = 0; row1 = 0; row2 = 0; v = 0; count = 0; x = 0; since[me] = 0 }
  od
}

init {
  atomic {
    m = 1; rowOf[1] = 1; rowRos[1] = 1; rowIn[1] = 1; rowId[1] = 1; rowVer[1] = 1; rowSize[1] = 1;
    r = 1; inc[1] = 1; ros[1] = 1; ver[1] = 2; least[1] = 1; size[1] = 2;
    headOf[1] = 2; headIn[1] = 1; headId[1] = 2; headVer[1] = 2;
    ids = 2; idOf[1] = 1; idOf[2] = 2; idInc[1] = 1; idInc[2] = 1; entries = BIT(1) | BIT(2); incs = 1; rosters = 1;
    isIn[1] = 1; isIn[2] = 1; idIn[1] = 1; idIn[2] = 2; used = BIT(1) | BIT(2);
    run Writer();
#if WRITERS > 1
    run Writer();
#endif
    run Purge();
#ifdef COMPACT
    run Copier();
#if COPIERS > 1
    run Copier();
#endif
#ifdef LATE
    run Late();
#endif
#endif
#ifdef SWEEP
    run Sweep();
    run Index();
#endif
#ifdef ROSTER
    run Roster(1);
#endif
#ifdef IS_MEMBER
    run IsMember(0);
#endif
    skip
  }
}
