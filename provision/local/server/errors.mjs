// How PostgREST answers a database error: SQLSTATE to HTTP status, and the body's four keys.

import { RelationNotFoundError } from "@supabase/lite";

const BY_CODE = {
  23503: 409,
  23505: 409,
  25006: 405,
  "42P01": 404,
  "42P17": 500,
  42883: 404,
  53400: 500,
  "57P01": 503,
  P0001: 400,
};

const BY_CLASS = {
  "08": 503, "09": 500, "0L": 403, "0P": 403, 25: 500, 28: 403, "2D": 500, 38: 500, 39: 500, "3B": 500,
  40: 500, 53: 503, 54: 500, 55: 500, 57: 500, 58: 500, F0: 500, HV: 500, P0: 500, XX: 500,
};

const LOST = new Set([
  "CONNECTION_CLOSED", "CONNECTION_DESTROYED", "CONNECTION_ENDED", "CONNECT_TIMEOUT",
  "ECONNREFUSED", "ECONNRESET", "ENOENT", "EPIPE",
]);

// the status depends on the caller's role, the message on the table asked for: lite knows them
const OF_LITE = new Set(["42501", "42703"]);

const SQLSTATE = /^[0-9A-Z]{5}$/;

/** The HTTP status PostgREST gives a SQLSTATE. */
export function statusOf(code, message = "") {
  if (code === "21000") return message.endsWith("requires a WHERE clause") ? 400 : 500;
  return BY_CODE[code] ?? BY_CLASS[code.slice(0, 2)] ?? 400;
}

/** An error that lite answers with exactly this status and body. */
export function answered(status, code, message, details = null, hint = null) {
  const body = JSON.stringify({ code, message, details, hint });
  // lite gives errors of code PGRST the status and body that they carry, as PostgREST does for `raise sqlstate 'PGRST'`
  return expected(Object.assign(new Error(body), { code: "PGRST", detail: JSON.stringify({ status, headers: {} }) }));
}

const expected = (error) => Object.assign(error, { expected: true });

/** Whether the driver says that its connection is gone, or never came. */
export const isLost = (error) => LOST.has(error?.code);

/** The error lite is to answer in place of what the driver threw. */
export function normalized(error) {
  if (error instanceof RelationNotFoundError) return expected(error);
  if (isLost(error)) return answered(503, "PGRST001", "Database client error. Retrying the connection.");
  const code = error?.code;
  if (typeof code !== "string" || !SQLSTATE.test(code) || code === "PGRST") return error;
  if (OF_LITE.has(code) || code.startsWith("PT")) return expected(error);
  return answered(statusOf(code, error.message), code, error.message, error.detail ?? null, error.hint ?? null);
}
