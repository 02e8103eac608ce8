import { expect } from "chai";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { mutants } from "../tools/mutants/all.js";
import { placesOf } from "../tools/mutants/place.js";

const root = new URL("..", import.meta.url);

describe("the list of mutants", () => {
  it("names each change once", () => {
    expect(new Set(mutants.map(({ name }) => name)).size).to.equal(mutants.length);
  });

  it("finds the place of each change once, and its killer", () => {
    const lost: string[] = [];
    for (const mutant of mutants) {
      const text = readFileSync(new URL(mutant.file, root), "utf8");
      const places = placesOf(mutant.find, text).length;
      if (places !== 1) lost.push(`${mutant.name}: ${String(places)} times in ${mutant.file}`);
      const { killedBy } = mutant;
      if (killedBy.kind !== "spec") continue;
      if (!existsSync(fileURLToPath(new URL(killedBy.file, root)))) lost.push(`${mutant.name}: no ${killedBy.file}`);
    }
    expect(lost).to.deep.equal([]);
  });
});
