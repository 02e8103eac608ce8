import Fastify from "fastify";
import { provedKey, statusOf } from "./admission.mjs";

export async function start(store) {
  const app = Fastify();
  app.decorateRequest("user", null);
  app.addHook("onRequest", async (request, reply) => {
    const decision = await store.authorize(provedKey(request)); // never rejects
    if (!decision.allowed) return reply.code(statusOf(decision)).send();
    request.user = decision.user;
  });
  const memberOfRoom = async (request, reply) => {
    if (!(await store.isMember(request.params.room, request.user.key))) return reply.code(403).send();
  };
  app.get("/", (request) => `hello ${request.user.name}`);
  app.get("/rooms/:room", { preHandler: memberOfRoom }, (request) => request.params.room);
  app.addHook("onClose", () => store.close());
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { port: app.server.address().port, close: () => app.close() };
}
