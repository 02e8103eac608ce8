// A checker in the manner of Wing and Gong: is there an order of the operations, each at one instant between its
// invocation and its response, in which each answer is right? Every possible course of things is followed at once, from
// one response to the next (Lowe's just-in-time linearization).

/** What one record's state is, as text, so that two are the same where they are equal. */
export interface Model<Input, Output> {
  readonly initial: string;
  /**
   * The state after the operation, or `undefined` where it could not have had that result in that state. Of an operation
   * whose outcome nobody knows the output is `undefined`: whatever it could have done.
   */
  step(state: string, input: Input, output: Output | undefined): string | undefined;
}

export interface Operation<Input, Output> {
  readonly input: Input;
  readonly invoked: number;
  /** `undefined`: it may have taken effect at any time since, or never. */
  readonly returned: number | undefined;
  readonly output: Output | undefined;
}

/** One course of things: the state, and which of the operations that are under way have taken effect. */
interface Course {
  readonly state: string;
  readonly done: ReadonlySet<number>;
}

/** So many courses of things at once are beyond what is worth checking. */
const MAX_COURSES = 300_000;

export class TooManyCourses extends Error {}

/** The index of the operation whose answer no order explains, or `undefined` if there is an order. */
export function unexplained<Input, Output>(
  model: Model<Input, Output>,
  history: readonly Operation<Input, Output>[],
  maxCourses = MAX_COURSES,
): number | undefined {
  const events = history.flatMap(({ invoked, returned }, index) => [
    { time: invoked, index, returns: false },
    ...(returned === undefined ? [] : [{ time: returned, index, returns: true }]),
  ]);
  // Of the same instant: what began may have overlapped what ended.
  events.sort((a, b) => a.time - b.time || Number(a.returns) - Number(b.returns));

  const underWay = new Set<number>();
  let courses: Course[] = [{ state: model.initial, done: new Set() }];
  for (const { index, returns } of events) {
    if (!returns) {
      underWay.add(index);
      continue;
    }
    courses = after(model, history, courses, underWay, index, maxCourses);
    if (courses.length === 0) return index;
    underWay.delete(index);
  }
  return undefined;
}

/** The courses in which the operation has taken effect, without mention of it. */
function after<Input, Output>(
  model: Model<Input, Output>,
  history: readonly Operation<Input, Output>[],
  courses: readonly Course[],
  underWay: ReadonlySet<number>,
  wanted: number,
  maxCourses: number,
): Course[] {
  const found = new Map<string, Course>();
  const seen = new Set<string>();
  const stack = [...courses];
  for (let course = stack.pop(); course !== undefined; course = stack.pop()) {
    const key = nameOf(course);
    if (seen.has(key)) continue;
    seen.add(key);
    if (seen.size > maxCourses) throw new TooManyCourses(`more than ${maxCourses} courses of things`);
    if (course.done.has(wanted)) {
      const done = new Set(course.done);
      done.delete(wanted);
      const rest = { state: course.state, done };
      found.set(nameOf(rest), rest);
      continue;
    }
    for (const index of underWay) {
      if (course.done.has(index)) continue;
      const operation = history[index];
      if (operation === undefined) continue;
      const state = model.step(course.state, operation.input, operation.output);
      if (state === undefined) continue;
      // What nobody heard of and changes nothing need not be followed.
      if (operation.returned === undefined && state === course.state) continue;
      stack.push({ state, done: new Set(course.done).add(index) });
    }
  }
  return [...found.values()];
}

function nameOf({ state, done }: Course): string {
  return `${state} ${[...done].sort((a, b) => a - b).join()}`;
}
