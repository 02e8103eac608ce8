import express from "express";
import { provedKey, statusOf } from "./admission.mjs";

/** Lets through who may come in, with the user at hand. A route that forgets it is open: use it once, for all. */
export function admitted(store) {
  return async (request, response, next) => {
    const decision = await store.authorize(provedKey(request)); // never rejects
    if (!decision.allowed) {
      response.sendStatus(statusOf(decision));
      return;
    }
    response.locals.user = decision.user;
    next();
  };
}

export function memberOfRoom(store) {
  return async (request, response, next) => {
    if (await store.isMember(request.params.room, response.locals.user.key)) next();
    else response.sendStatus(403);
  };
}

export async function start(store) {
  const app = express();
  app.use(admitted(store));
  app.get("/", (request, response) => response.send(`hello ${response.locals.user.name}`));
  app.get("/rooms/:room", memberOfRoom(store), (request, response) => response.send(request.params.room));
  const server = app.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  return { port: server.address().port, close: () => server.close() };
}
