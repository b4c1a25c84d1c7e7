// lite's PostgreSQL connection with PostgREST's transaction around every request, in as few round trips as it takes.

import { PostgresConnection } from "@supabase/lite/postgres";
import { CompiledQuery, Kysely, PostgresAdapter, PostgresIntrospector, PostgresQueryCompiler } from "kysely";
import postgres from "postgres";
import { answered, isLost, normalized } from "./errors.mjs";

const ACQUIRE_MS = 10_000; // PostgREST's db-pool-acquisition-timeout
const PREPARE_UP_TO = 24; // parameters; larger statements are one-off batches and would only fill the backends' caches
const MAX_PARAMETERS = 65_533; // the driver hangs on more; PostgREST sends one JSON document instead
const TIMEOUTS = { anon: "3s" }; // Supabase's statement timeouts; every other role has 8 s
const BEGIN = "begin;";
const COMMIT = CompiledQuery.raw("commit");
const ROLLBACK = CompiledQuery.raw("rollback");
const CHANGES = new Set(["INSERT", "UPDATE", "DELETE", "MERGE"]);

/** PostgREST's `db-hoisted-tx-settings`, of which this is one: a function's own setting begins its transaction. */
const ISOLATION = `
  select p.proname as name, split_part(setting, '=', 2) as level
    from pg_proc p join pg_namespace n on n.oid = p.pronamespace, unnest(p.proconfig) as setting
   where n.nspname = 'public' and setting like 'default_transaction_isolation=%'`;

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

/** One database connection: a postgres.js client of exactly one, replaced by a new one once it was lost. */
class Session {
  #options;
  #sql;
  #generation;
  #begun;
  #lost; // why nothing more may be sent: it would run outside its transaction, on a connection that came after

  constructor(options, generation) {
    this.#options = options;
    this.#generation = generation;
    this.#connect();
  }

  #connect() {
    const onclose = () => {
      if (this.#sql === sql) this.#lost ??= Object.assign(new Error("connection closed"), { code: "CONNECTION_CLOSED" });
    };
    const sql = postgres({ ...this.#options, onclose });
    this.#sql = sql;
  }

  async executeQuery({ sql, parameters }) {
    if (sql.startsWith(BEGIN)) return this.#begin(sql);
    if (this.#lost) throw this.#lost;
    if (parameters.length > MAX_PARAMETERS) {
      throw answered(500, "54000", `${parameters.length} values in one request are too many for this server: send less`);
    }
    const prepare = parameters.length > 0 && parameters.length <= PREPARE_UP_TO;
    // the comment makes new prepared statements after a schema change: an old plan must not change its result type
    const text = prepare ? `${sql} /*${this.#generation()}*/` : sql;
    try {
      const result = await this.#sql.unsafe(text, parameters.slice(), { prepare });
      await this.#begun;
      const rows = Array.from(result);
      return CHANGES.has(result.command) ? { numAffectedRows: BigInt(result.count ?? 0), rows } : { rows };
    } catch (error) {
      if (isLost(error) || error.severity === "FATAL") this.#lost = error;
      await this.#begun; // a failed preamble is the cause, "transaction is aborted" only its echo
      throw error;
    }
  }

  /** Not awaited: it travels with the first query. */
  #begin(sql) {
    const begun = this.#sql.unsafe(sql);
    begun.catch((error) => {
      if (this.#begun === begun) this.#lost = error;
    });
    this.#begun = begun;
    return { rows: [] };
  }

  /** Makes it fit for its next holder. */
  renew() {
    this.#begun = undefined;
    if (!this.#lost) return;
    this.#lost = undefined;
    const old = this.#sql;
    this.#connect();
    old.end({ timeout: 0 }).catch(() => {});
  }

  streamQuery() {
    throw new Error("streaming is not used");
  }

  async close() {
    await this.#sql.end({ timeout: 1 });
  }
}

/** Kysely's driver over a fixed number of sessions. postgres.js's own pool can hang once a reserved connection is lost. */
class Driver {
  #sessions;
  #free;
  #waiting = [];

  constructor(sessions) {
    this.#sessions = sessions;
    this.#free = [...sessions];
  }

  async init() {}

  async acquireConnection() {
    const free = this.#free.pop();
    if (free) {
      free.renew();
      return free;
    }
    return new Promise((resolve, reject) => {
      const waiter = { resolve };
      waiter.timer = setTimeout(() => {
        this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
        reject(answered(504, "PGRST003", "Timed out acquiring connection from connection pool."));
      }, ACQUIRE_MS);
      this.#waiting.push(waiter);
    });
  }

  async releaseConnection(session) {
    session.renew();
    const next = this.#waiting.shift();
    if (!next) {
      this.#free.push(session);
      return;
    }
    clearTimeout(next.timer);
    next.resolve(session);
  }

  async beginTransaction(session) {
    await session.executeQuery(CompiledQuery.raw(BEGIN));
  }

  async commitTransaction(session) {
    await session.executeQuery(COMMIT);
  }

  async rollbackTransaction(session) {
    await session.executeQuery(ROLLBACK);
  }

  async destroy() {
    await Promise.all(this.#sessions.map((session) => session.close()));
  }
}

function dialect(sessions) {
  return {
    createDriver: () => new Driver(sessions),
    createAdapter: () => new PostgresAdapter(),
    createQueryCompiler: () => new PostgresQueryCompiler(),
    createIntrospector: (db) => new PostgresIntrospector(db),
  };
}

/** Everything PostgREST sets before a request's statement, as one simple query. */
export function preamble({ auth = {}, storage }, rpc, isolation) {
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
  const level = isolation ? ` set transaction isolation level ${isolation};` : "";
  return `${BEGIN}${level}${rpc?.readOnly ? " set transaction read only;" : ""} select ${calls.join(", ")}`;
}

/** The options of every client; `max` stands here and never as `?max=` in a URL, which postgres.js misreads. */
function options({ host, database, user }, types, searchPath) {
  const connection = { application_name: "api", TimeZone: "UTC", search_path: searchPath };
  return { host, database, user, max: 1, max_lifetime: null, onnotice: () => {}, connection, types };
}

/** `pool` connections for requests; beside them `driver`, a client for the catalog and for notifications. */
export class Connection extends PostgresConnection {
  #generation = 0;
  #isolation; // a promise of the isolation level that a function asks for, by its name

  constructor({ pool, ...database }) {
    super({ postgresOptions: options(database, {}, "pg_catalog") }); // there every other type has its schema's name
    const types = { ...this.driver.options.types, ...TYPES };
    const session = () => new Session(options(database, types, "public, extensions"), () => this.#generation);
    this.kysely = new Kysely({ dialect: dialect(Array.from({ length: pool }, session)) });
  }

  normalizeDbError(error) {
    return normalized(error);
  }

  /** lite answers a failure with an empty schema, in which every table is unknown; here it is an error. */
  async introspect(options) {
    const found = await super.introspect(options);
    if (found.tables.length > 0) return found;
    throw new Error("the schema cannot be read");
  }

  async clearSchemaCache() {
    this.#generation += 1;
    this.#isolation = undefined;
    await super.clearSchemaCache();
  }

  async #level(rpc) {
    if (!rpc) return undefined;
    this.#isolation ??= this.driver.unsafe(ISOLATION).then((rows) => new Map(rows.map(({ name, level }) => [name, level])));
    try {
      return (await this.#isolation).get(rpc.path.split("/").at(-1));
    } catch (error) {
      this.#isolation = undefined;
      throw error;
    }
  }

  /** Runs `work` as the caller's role in a transaction of its own; a refused answer is rolled back. */
  async withContext(vars, work, options = {}) {
    if (options.transaction) return work(options.transaction);
    if (!vars) return work(this.kysely);
    return this.kysely.connection().execute(async (db) => {
      await db.executeQuery(CompiledQuery.raw(preamble(vars, options.rpc, await this.#level(options.rpc))));
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
