// A checker in the manner of Wing and Gong: is there an order of the operations, each at one instant between its
// invocation and its response, in which each answer is right? Every possible course of things is followed at once, from
// one response to the next (Lowe's just-in-time linearization).

/** What one record's state is, as text, so that two are the same where they are equal. */
export interface Model<Input, Output> {
  readonly initial: string;
  /**
   * The state after the operation, or `undefined` where it could not have had that result in that state. Of an
   * operation whose outcome nobody knows the output is `undefined`: whatever it could have done.
   */
  step(state: string, input: Input, output: Output | undefined): string | undefined;
  /**
   * Whether the operation with that result never changes anything, in whatever state: then it need not wait for
   * another.
   */
  isPure?(input: Input, output: Output | undefined): boolean;
}

export interface Operation<Input, Output> {
  readonly input: Input;
  readonly invoked: number;
  /** `undefined`: it may have taken effect at any time since, or never. */
  readonly returned: number | undefined;
  readonly output: Output | undefined;
}

/**
 * One course of things: the state, and which of the operations that are under way have taken effect, a bit for each
 * place.
 */
interface Course {
  readonly state: string;
  readonly low: number;
  readonly high: number;
}

/** So many courses of things at once are beyond what is worth checking. */
const MAX_COURSES = 300_000;
/** Bits of one number, and so half of the operations that can be under way at once. */
const BITS = 31;

export class TooManyCourses extends Error {}

/** An operation that is under way, and what it makes of each state that it was tried in: courses have few of them. */
class Pending<Input, Output> {
  readonly isHeardOf: boolean;
  /** Whether it never changes anything, in whatever state. */
  readonly isPure: boolean;
  readonly #model: Model<Input, Output>;
  readonly #operation: Operation<Input, Output>;
  readonly #next = new Map<string, string | undefined>();

  constructor(model: Model<Input, Output>, operation: Operation<Input, Output>) {
    const { input, output, returned } = operation;
    this.#model = model;
    this.#operation = operation;
    this.isHeardOf = returned !== undefined;
    this.isPure = model.isPure?.(input, output) === true;
  }

  after(state: string): string | undefined {
    const known = this.#next.get(state);
    if (known !== undefined || this.#next.has(state)) return known;
    const next = this.#model.step(state, this.#operation.input, this.#operation.output);
    this.#next.set(state, next);
    return next;
  }
}

/** The operations that are under way, each in a place of its own. */
class UnderWay<Input, Output> {
  readonly places: (Pending<Input, Output> | undefined)[] = [];
  readonly #placeOf = new Map<number, number>();

  begin(index: number, operation: Pending<Input, Output>): void {
    let place = this.places.indexOf(undefined);
    if (place < 0) place = this.places.length;
    if (place >= 2 * BITS) throw new TooManyCourses(`more than ${2 * BITS} operations under way at once`);
    this.places[place] = operation;
    this.#placeOf.set(index, place);
  }

  placeOf(index: number): number {
    return this.#placeOf.get(index) ?? -1;
  }

  end(index: number): void {
    this.places[this.placeOf(index)] = undefined;
  }
}

const isDone = ({ low, high }: Course, place: number): boolean =>
  place < BITS ? (low & (1 << place)) !== 0 : (high & (1 << (place - BITS))) !== 0;

/** The course with the operation's bit turned. */
const turned = ({ state, low, high }: Course, place: number): Course =>
  place < BITS ? { state, low: low ^ (1 << place), high } : { state, low, high: high ^ (1 << (place - BITS)) };

/** The index of the operation whose answer no order explains, or `undefined` if there is an order. */
export function unexplained<Input, Output>(
  model: Model<Input, Output>,
  history: readonly Operation<Input, Output>[],
  maxCourses = MAX_COURSES,
): number | undefined {
  const events = history.flatMap((operation, index) => [
    { time: operation.invoked, index, operation, returns: false },
    ...(operation.returned === undefined ? [] : [{ time: operation.returned, index, operation, returns: true }]),
  ]);
  // Of the same instant: what began may have overlapped what ended.
  events.sort((a, b) => a.time - b.time || Number(a.returns) - Number(b.returns));

  const underWay = new UnderWay<Input, Output>();
  let courses: Course[] = [{ state: model.initial, low: 0, high: 0 }];
  for (const { index, operation, returns } of events) {
    if (!returns) {
      underWay.begin(index, new Pending(model, operation));
      continue;
    }
    courses = after(courses, underWay.places, underWay.placeOf(index), maxCourses);
    if (courses.length === 0) return index;
    underWay.end(index);
  }
  return undefined;
}

/** The courses in which the operation has taken effect, without mention of it. */
function after<Input, Output>(
  courses: readonly Course[],
  places: readonly (Pending<Input, Output> | undefined)[],
  wanted: number,
  maxCourses: number,
): Course[] {
  const simple = simply(courses, places, wanted);
  if (simple !== undefined) return [simple];
  const found = new Map<string, Course>();
  const seen = new Set<string>();
  const stack = [...courses];
  for (let course = stack.pop(); course !== undefined; course = stack.pop()) {
    const key = nameOf(course);
    if (seen.has(key)) continue;
    seen.add(key);
    if (seen.size > maxCourses) throw new TooManyCourses(`more than ${maxCourses} courses of things`);
    if (isDone(course, wanted)) {
      const rest = turned(course, wanted);
      found.set(nameOf(rest), rest);
      continue;
    }
    const next: Course[] = [];
    for (const [place, operation] of places.entries()) {
      if (operation === undefined || isDone(course, place)) continue;
      const state = operation.after(course.state);
      if (state === undefined) continue;
      // What nobody heard of and changes nothing need not be followed.
      if (!operation.isHeardOf && state === course.state) continue;
      const { low, high } = turned(course, place);
      if (operation.isPure) {
        // It is right here, and takes nothing from the others.
        next.length = 0;
        next.push({ state, low, high });
        break;
      }
      next.push({ state, low, high });
    }
    stack.push(...next);
  }
  return [...found.values()];
}

/** The only course where it is plain: the operation has taken effect already, or is right here and changes nothing. */
function simply<Input, Output>(
  courses: readonly Course[],
  places: readonly (Pending<Input, Output> | undefined)[],
  wanted: number,
): Course | undefined {
  const [course, ...others] = courses;
  if (course === undefined || others.length > 0) return undefined;
  if (isDone(course, wanted)) return turned(course, wanted);
  const operation = places[wanted];
  if (operation?.isPure !== true) return undefined;
  return operation.after(course.state) === course.state ? course : undefined;
}

const nameOf = ({ state, low, high }: Course): string => `${state} ${low} ${high}`;
