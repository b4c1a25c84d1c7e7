// The API in front of lite: which paths exist, which keys are known, and what lite leaves out.

import { createHmac, timingSafeEqual } from "node:crypto";
import { App } from "@supabase/lite";
import { openapi } from "./openapi.mjs";

const OPEN = ["/rest/v1", "/auth/v1"];
const RELOAD = new Set(["", "reload schema", "reload config"]);

function json(status, body, headers = {}) {
  return new Response(JSON.stringify(body), {
    status,
    headers: { "Content-Type": "application/json; charset=utf-8", ...headers },
  });
}

/** The claims of a legacy key, a JWT signed with the stack's own secret; null if it is none or has expired. */
function legacyClaims(key, secret) {
  const [header, payload, signature] = key.split(".");
  if (!signature) return null;
  const expected = createHmac("sha256", secret).update(`${header}.${payload}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) return null;
  const claims = JSON.parse(Buffer.from(payload, "base64url").toString());
  return claims.exp > Date.now() / 1000 ? claims : null;
}

/** Says what an `apikey` stands for; both generations of keys, as a hosted project has them. */
export function keyResolver({ secretKey, publishableKey, jwtSecret }) {
  const known = new Map([
    [secretKey, { type: "secret", claims: { role: "service_role" } }],
    [publishableKey, { type: "publishable", claims: { role: "anon" } }],
  ]);
  return (key) => {
    if (!known.has(key)) {
      const claims = legacyClaims(key, jwtSecret);
      if (claims === null || !["anon", "service_role"].includes(claims.role)) return null;
      known.set(key, { type: claims.role === "anon" ? "publishable" : "secret", claims });
    }
    return known.get(key);
  };
}

/** The schemas that the API shows: `public` first, then every other one that service_role may use. */
const SCHEMAS = `
  select nspname as name from pg_namespace
   where nspname !~ '^pg_' and nspname not in ('information_schema', 'auth', 'extensions')
     and has_schema_privilege('service_role', oid, 'usage')
   order by nspname <> 'public', nspname`;

function createApp(config, connection, resolve, schemas) {
  return new App({
    connection,
    api: { enabled: true, schemas, max_rows: 1000, pg_safe_update: true },
    auth: { enabled: true, jwt_secret: config.jwtSecret },
    options: {
      server: { admin: false, disableStudio: true, apiKeys: { resolver: async (key) => resolve(key) } },
    },
  });
}

/** `{fetch, firstRequest}` for one configuration, with the schema cache following `NOTIFY pgrst`. */
export async function createApi(config, connection) {
  const resolve = keyResolver(config);
  let schemas = [];
  let app;
  const readSchemas = async () => {
    const found = (await connection.driver.unsafe(SCHEMAS)).map(({ name }) => name);
    if (app && found.join() === schemas.join()) return;
    schemas = found;
    app = createApp(config, connection, resolve, schemas);
  };
  await readSchemas();
  await app.ensureSystemSchema();
  const reload = async (payload) => {
    if (!RELOAD.has(payload)) return;
    await readSchemas();
    await connection.clearSchemaCache();
  };
  // also after a reconnection: a notification may have been missed meanwhile
  await connection.driver.listen("pgrst", reload, () => reload(""));

  async function describe(request) {
    const key = resolve(request.headers.get("apikey") ?? "");
    if (key?.type !== "secret") return app.fetch(request);
    const schema = request.headers.get("accept-profile") ?? "public";
    if (!schemas.includes(schema)) return app.fetch(request);
    const document = await openapi(connection.driver, key.claims.role, schema, new URL(request.url).host);
    return json(200, document, { "Content-Type": "application/openapi+json; charset=utf-8" });
  }

  /** Whether the schema is known; read again first if it has changed. */
  async function knowsSchema() {
    try {
      await connection.introspect({ useCache: true });
      return true;
    } catch {
      return false;
    }
  }

  async function fetch(request) {
    const { pathname } = new URL(request.url);
    if (!OPEN.some((prefix) => pathname === prefix || pathname.startsWith(`${prefix}/`))) {
      return json(404, { message: "no Route matched with those values" });
    }
    if (!(await knowsSchema())) {
      const message = "Could not query the database for the schema cache. Retrying.";
      return json(503, { code: "PGRST002", details: null, hint: null, message });
    }
    const isRoot = pathname === "/rest/v1/" || pathname === "/rest/v1";
    return isRoot && request.method === "GET" ? describe(request) : app.fetch(request);
  }

  /** One request alone: parallel first ones can meet in lite's own set-up. */
  async function firstRequest(url) {
    const answer = await fetch(new Request(`${url}/rest/v1/events?limit=0`, { headers: { apikey: config.secretKey } }));
    if (answer.status !== 200) throw new Error(`the first request was answered ${answer.status}: ${await answer.text()}`);
  }

  return { fetch, firstRequest };
}
