/** The thread that makes images. It has nothing to wait for but its files, so that it may wait for them. */
import { closeSync, openSync } from "node:fs";
import { parentPort, workerData } from "node:worker_threads";
import { buildImage, copyImage } from "./image-builder.js";
import type { BuildRequest } from "./image-builder.js";
import { DiskFile } from "./image-file.js";
import { TimeSlice } from "./time-slice.js";
import { startSqlJs } from "./sql-js-start.js";
import type { SealedImage } from "./superblock.js";
import { Haste, Throttle } from "./throttle.js";

export interface ImageWork {
  readonly module: WebAssembly.Module;
  readonly request: BuildRequest;
  /** An empty file, for the image. */
  readonly target: string;
  /** Of its {@link Haste}. */
  readonly haste: SharedArrayBuffer;
}

export type ImageWorkerMessage =
  /** From here on a failure is the disk's, or the files', and not the thread's. */
  | { readonly kind: "started" }
  | { readonly kind: "done"; readonly image: SealedImage }
  | { readonly kind: "failed"; readonly message: string; readonly code: string | undefined };

function say(message: ImageWorkerMessage): void {
  parentPort?.postMessage(message);
}

async function work({ module, request, target, haste }: ImageWork): Promise<SealedImage> {
  const sqlJs = await startSqlJs(module);
  say({ kind: "started" });
  const pace = new TimeSlice();
  const fd = openSync(target, "r+");
  try {
    const file = new DiskFile(fd, new Throttle(new Haste(haste)));
    await copyImage(request, pace, (piece, position) => {
      if (file.write(piece, 0, piece.length, position) < piece.length)
        throw new Error("The disk took none of the bytes");
    });
    const image = await buildImage(sqlJs, file, request, pace);
    file.sync();
    return image;
  } finally {
    closeSync(fd);
  }
}

work(workerData as ImageWork).then(
  (image) => {
    say({ kind: "done", image });
  },
  (error: unknown) => {
    const code = error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : undefined;
    say({ kind: "failed", message: error instanceof Error ? error.message : String(error), code });
  },
);
