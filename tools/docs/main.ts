// npm run docs: writes docs/api.md. npm run docs:check: whether code, links and reference of all documents are right.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { apiReference } from "./api.js";
import { wrongExamples } from "./examples.js";
import { API, documents, isReferenceCurrent, root, wrongBenchmarks, wrongCode, wrongLinks } from "./check.js";

if (process.argv.includes("--check")) {
  const wrong = [
    ...(await wrongCode()),
    ...(await wrongLinks()),
    ...(await wrongExamples()),
    ...(await wrongBenchmarks()),
  ];
  if (!(await isReferenceCurrent())) wrong.push(`${API} is not what the doc comments say: npm run docs`);
  for (const each of wrong) console.log(each);
  console.log(`${String(documents().length)} documents, ${String(wrong.length)} faults`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
} else {
  await writeFile(join(root, API), await apiReference());
}
