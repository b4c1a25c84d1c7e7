// lite's PostgreSQL connection with PostgREST's transaction around every request, in as few round trips as it takes.

import { PostgresConnection } from "@supabase/lite/postgres";
import { CompiledQuery, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from "kysely";
import { answered, normalized } from "./errors.mjs";

const ACQUIRE_MS = 10_000; // PostgREST's db-pool-acquisition-timeout
const PREPARE_UP_TO = 24; // parameters; larger statements are one-off batches and would only fill the backends' caches
const TIMEOUTS = { anon: "3s" }; // Supabase's statement timeouts; every other role has 8 s
const BEGIN = "begin;";

const literal = (text) => `'${String(text).replaceAll("'", "''")}'`;
const withT = (text) => text.replace(" ", "T");
const withZone = (text) => withT(text).replace(/([+-]\d\d)$/, "$1:00");

function exactNumber(text) {
  const number = Number(text);
  if (!Number.isFinite(number)) return text;
  return text.replace(/\D/g, "").length > 15 ? JSON.rawJSON(text) : number;
}

/** Parsers that give PostgREST's JSON: `2026-01-01T00:00:00+00:00`, and numerics as numbers. */
const TYPES = {
  timestamp: { to: 1114, from: [1114], serialize: (value) => value, parse: withT },
  timestamptz: { to: 1184, from: [1184], serialize: (value) => value, parse: withZone },
  numeric: { to: 1700, from: [1700], serialize: (value) => String(value), parse: exactNumber },
};

class Session {
  constructor(reserved, generation) {
    this.reserved = reserved;
    this.generation = generation;
  }

  async executeQuery({ sql, parameters }) {
    if (sql.startsWith(BEGIN)) {
      // not awaited: it travels with the first query
      this.begun = this.reserved.unsafe(sql);
      this.begun.catch(() => {});
      return { rows: [] };
    }
    const prepare = parameters.length > 0 && parameters.length <= PREPARE_UP_TO;
    // the comment makes new prepared statements after a schema change: an old plan must not change its result type
    const text = prepare ? `${sql} /*${this.generation}*/` : sql;
    try {
      const result = await this.reserved.unsafe(text, parameters.slice(), { prepare });
      await this.begun;
      const affected = BigInt(result.count ?? 0);
      const changed = ["INSERT", "UPDATE", "DELETE", "MERGE"].includes(result.command);
      return changed ? { numAffectedRows: affected, rows: Array.from(result) } : { rows: Array.from(result) };
    } catch (error) {
      await this.begun; // a failed preamble is the cause, "transaction is aborted" only its echo
      throw error;
    }
  }

  streamQuery() {
    throw new Error("streaming is not used");
  }
}

class Driver {
  constructor(sql, generation) {
    this.sql = sql;
    this.generation = generation;
  }

  async init() {}

  async acquireConnection() {
    const reserving = this.sql.reserve();
    let timer;
    const late = new Promise((resolve) => {
      timer = setTimeout(resolve, ACQUIRE_MS);
    });
    const reserved = await Promise.race([reserving, late]);
    clearTimeout(timer);
    if (reserved) return new Session(reserved, this.generation());
    reserving.then((one) => one.release(), () => {});
    throw answered(504, "PGRST003", "Timed out acquiring connection from connection pool.");
  }

  async beginTransaction(session) {
    await session.reserved.unsafe("begin");
  }

  async commitTransaction(session) {
    await session.reserved.unsafe("commit");
  }

  async rollbackTransaction(session) {
    await session.reserved.unsafe("rollback");
  }

  async releaseConnection(session) {
    session.reserved.release();
  }

  async destroy() {
    await this.sql.end();
  }
}

function dialect(sql, generation) {
  return {
    createDriver: () => new Driver(sql, generation),
    createAdapter: () => new PostgresAdapter(),
    createQueryCompiler: () => new PostgresQueryCompiler(),
    createIntrospector: (db) => new PostgresIntrospector(db),
  };
}

/** Everything PostgREST sets before a request's statement, as one simple query. */
export function preamble({ auth = {}, storage }, rpc) {
  const role = auth.role || "anon";
  const settings = {
    role,
    "request.jwt.claims": JSON.stringify(auth.jwt ?? { role }),
    "request.jwt.claim.sub": auth.uid ?? "",
    "request.jwt.claim.role": role,
    "storage.operation": storage?.operation ?? "",
    statement_timeout: TIMEOUTS[role] ?? "8s",
  };
  if (rpc) {
    settings["request.method"] = rpc.method;
    settings["request.path"] = rpc.path;
    settings["request.headers"] = JSON.stringify(rpc.requestHeaders ?? {});
    settings["response.status"] = "";
    settings["response.headers"] = "";
  }
  const calls = Object.entries(settings).map(([name, value]) => `set_config(${literal(name)}, ${literal(value)}, true)`);
  return `${BEGIN}${rpc?.readOnly ? " set transaction read only;" : ""} select ${calls.join(", ")}`;
}

const COMMIT = CompiledQuery.raw("commit");
const ROLLBACK = CompiledQuery.raw("rollback");

export class Connection extends PostgresConnection {
  #generation = 0;

  constructor({ host, database, user, pool }) {
    super({
      postgresOptions: {
        host,
        database,
        user,
        max: pool, // never as `?max=` in a URL: that gives a pool of one
        max_lifetime: null,
        onnotice: () => {},
        connection: { application_name: "api" },
        types: TYPES,
      },
    });
    this.kysely = new Kysely({ dialect: dialect(this.driver, () => this.#generation) });
  }

  normalizeDbError(error) {
    return normalized(error);
  }

  async clearSchemaCache() {
    this.#generation += 1;
    await super.clearSchemaCache();
  }

  /** Runs `work` as the caller's role in a transaction of its own; a refused answer is rolled back. */
  async withContext(vars, work, options = {}) {
    if (options.transaction) return work(options.transaction);
    if (!vars) return work(this.kysely);
    return this.kysely.connection().execute(async (db) => {
      await db.executeQuery(CompiledQuery.raw(preamble(vars, options.rpc)));
      try {
        const result = await work(db);
        await db.executeQuery(result instanceof Response && result.status >= 400 ? ROLLBACK : COMMIT);
        return result;
      } catch (error) {
        await db.executeQuery(ROLLBACK).catch(() => {});
        throw error;
      }
    });
  }
}
