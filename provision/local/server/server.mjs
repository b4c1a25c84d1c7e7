// A Supabase API on 127.0.0.1: lite's App over one PostgreSQL, in HTTP/1.1 and in HTTP/2 over TLS.
//
// The parent writes one line of JSON (the configuration, keys included) to stdin and keeps stdin open: its end is the
// parent's end. One line of JSON on stdout says that requests are served, and where.

import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createSecureServer } from "node:http2";
import { createInterface } from "node:readline";
import { getRequestListener } from "@hono/node-server";
import { createApi } from "./api.mjs";
import { Connection } from "./connection.mjs";

const PROOF_MS = 10_000;
const IDLE_MS = 120_000; // longer than any pause of a scenario: a reused connection must not meet its own end

const log = (...words) => process.stderr.write(`${new Date().toISOString()} ${words.join(" ")}\n`);

console.error = (error, ...rest) => {
  // answers such as "duplicate key" are the API's daily work; what is left is worth a line
  if (!error?.expected) log("error:", error?.stack ?? error, ...rest.map((one) => one?.stack ?? one));
};
console.log = (...words) => log(...words);

/** Shows that `pool` parallel requests run on `pool` backends, no more and no fewer; throws otherwise. */
async function provePool(connection, pool) {
  const seen = new Set();
  let release;
  const together = new Promise((resolve, reject) => {
    release = resolve;
    setTimeout(() => reject(new Error(`only ${seen.size} of ${pool} connections work in parallel`)), PROOF_MS).unref();
  });
  const one = async (db) => {
    const { rows } = await db.executeQuery({ sql: "select pg_backend_pid() as pid", parameters: [], query: {} });
    seen.add(rows[0].pid);
    if (seen.size >= pool) release();
    await together;
  };
  const caller = { auth: { role: "service_role" } };
  await Promise.all(Array.from({ length: pool + 1 }, () => connection.withContext(caller, one)));
  if (seen.size !== pool) throw new Error(`${seen.size} backends answer for a pool of ${pool}`);
}

function listen(server, preferred) {
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      if (error.code !== "EADDRINUSE" || preferred === 0) reject(error);
      else resolve(listen(server, 0));
    });
    server.listen(preferred, "127.0.0.1", () => resolve(server.address().port));
  });
}

function servers(fetch, tls) {
  const handler = getRequestListener(fetch);
  const plain = createServer({ keepAliveTimeout: IDLE_MS, requestTimeout: 0 }, handler);
  const secure = createSecureServer(
    { allowHTTP1: true, key: readFileSync(tls.key), cert: readFileSync(tls.cert), settings: { maxConcurrentStreams: 250 } },
    handler,
  );
  secure.keepAliveTimeout = IDLE_MS;
  secure.on("secureConnection", (socket) => socket.setNoDelay(true));
  for (const server of [plain, secure]) {
    server.on("clientError", (_error, socket) => socket.destroy());
    server.on("sessionError", () => {});
    server.on("tlsClientError", () => {});
  }
  return [plain, secure];
}

async function start(config) {
  const connection = new Connection({ ...config.database, pool: config.pool });
  const api = await createApi(config, connection);
  await provePool(connection, config.pool);
  await api.firstRequest("http://127.0.0.1");
  const [plain, secure] = servers(api.fetch, config.tls);
  const port = await listen(plain, config.port);
  const tlsPort = await listen(secure, config.tlsPort);
  process.stdout.write(`${JSON.stringify({ port, tlsPort, pool: config.pool })}\n`);
}

/** Takes PostgreSQL down with us when nobody else is left to do it. */
function stopDatabase({ pid, data }) {
  try {
    const owner = Number(readFileSync(`${data}/postmaster.pid`, "utf8").split("\n")[0]);
    if (owner === pid) process.kill(pid, "SIGQUIT");
  } catch {
    // already gone
  }
}

const lines = createInterface({ input: process.stdin });
let config;
lines.once("line", (line) => {
  config = JSON.parse(line);
  start(config).catch((error) => {
    log("cannot start:", error.stack);
    process.exit(1);
  });
});
lines.once("close", () => {
  if (config) stopDatabase(config.postmaster);
  process.exit(0);
});
process.once("SIGTERM", () => process.exit(0));
process.on("uncaughtException", (error) => {
  log("fatal:", error.stack);
  process.exit(1);
});
process.on("unhandledRejection", (error) => log("unhandled:", error?.stack ?? error));
