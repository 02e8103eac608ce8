import "reflect-metadata";
import { Controller, ForbiddenException, Get, HttpException, Module, Param, Req } from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { provedKey, statusOf } from "./admission.mjs";

/** As a global guard, so that no controller can forget it. */
export class AllowlistGuard {
  constructor(store) {
    this.store = store;
  }

  async canActivate(context) {
    const request = context.switchToHttp().getRequest();
    const decision = await this.store.authorize(provedKey(request)); // never rejects
    if (!decision.allowed) throw new HttpException(decision.reason, statusOf(decision));
    request.user = decision.user;
    return true;
  }
}

export async function start(store) {
  class Rooms {
    hello(request) {
      return `hello ${request.user.name}`;
    }

    async room(request, room) {
      if (!(await store.isMember(room, request.user.key))) throw new ForbiddenException();
      return room;
    }
  }
  // What decorators write, without a compiler.
  const of = (name) => Object.getOwnPropertyDescriptor(Rooms.prototype, name);
  Controller()(Rooms);
  Get()(Rooms.prototype, "hello", of("hello"));
  Req()(Rooms.prototype, "hello", 0);
  Get("rooms/:room")(Rooms.prototype, "room", of("room"));
  Req()(Rooms.prototype, "room", 0);
  Param("room")(Rooms.prototype, "room", 1);
  class App {}
  Module({ controllers: [Rooms] })(App);

  const app = await NestFactory.create(App, { logger: false });
  app.useGlobalGuards(new AllowlistGuard(store));
  await app.listen(0, "127.0.0.1");
  return { port: app.getHttpServer().address().port, close: () => app.close() };
}
