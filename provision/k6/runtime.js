import http from 'k6/http';
import exec from 'k6/execution';
import { check, sleep } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';
import { SharedArray } from 'k6/data';

export const options = CONFIG.options;

const file = () => JSON.parse(open(__ENV.TICKETS || 'test-tickets.json'));
const tickets = new SharedArray('tickets', () => file().tickets);
const [common] = new SharedArray('common', () => {
  const { run, environment_variables: known } = file();
  return [{ run, 'event.id': known.TEST_EVENT_ID, 'scanner.id': known.TEST_SCANNER_ID, url: known.SUPABASE_URL }];
});
const key = __ENV.SUPABASE_SECRET_KEY || __ENV.SUPABASE_SERVICE_ROLE_KEY;
if (!key) throw new Error('Set SUPABASE_SECRET_KEY (or SUPABASE_SERVICE_ROLE_KEY).');
const url = `${__ENV.SUPABASE_URL || common.url}/rest/v1/rpc/${CONFIG.rpc}`;
const schema = __ENV.PROVISION_SCHEMA && __ENV.PROVISION_SCHEMA !== 'public' ? __ENV.PROVISION_SCHEMA : null;
const params = {
  headers: {
    Accept: 'application/json',
    'Content-Type': 'application/json',
    apikey: key,
    Authorization: `Bearer ${key}`,
    ...(schema ? { 'Accept-Profile': schema, 'Content-Profile': schema } : {}),
    ...CONFIG.headers,
  },
  timeout: CONFIG.timeout,
};

const scanDuration = new Trend('scan_duration', true);
const scanErrors = new Rate('scan_errors');
const scanOutcomes = new Counter('scan_outcomes');
const counters = Object.fromEntries(Object.keys(CONFIG.counters).map((name) => [name, new Counter(name)]));

// The scan's ticket: each is used once; a race's gates meet at the ticket of the round
function take(place) {
  const number = place.race ? exec.vu.iterationInScenario : exec.scenario.iterationInTest;
  const count = Math.min(place.count ?? Infinity, tickets.length - place.first);
  if (number < count) return tickets[place.first + number];
  if (place.reuse) return tickets[place.first + (number % count)];
  return exec.test.abort('The tickets ran out; seed more of them.');
}

function filled(value, tokens) {
  if (typeof value === 'string') return value.replace(CONFIG_TOKEN, (all, literal, name) => (literal ? `{${literal}}` : String(tokens[name])));
  if (Array.isArray(value)) return value.map((one) => filled(one, tokens));
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, filled(one, tokens)]));
}
const CONFIG_TOKEN = /\{\{( *[A-Za-z_][A-Za-z0-9_.-]* *)\}\}|\{( *[A-Za-z_][A-Za-z0-9_.-]* *)\}/g;

function decoded(body) {
  try {
    const value = JSON.parse(body);
    return Array.isArray(value) && value.length === 1 ? value[0] : value;
  } catch {
    return undefined;
  }
}

function lookedUp(value, path) {
  if (path === '.') return value;
  return path.split('.').reduce((found, step) => {
    const inside = found !== null && typeof found === 'object' && Object.prototype.hasOwnProperty.call(found, step);
    return inside ? found[step] : undefined;
  }, value);
}

const same = (found, wanted) => found !== undefined && JSON.stringify(found) === JSON.stringify(wanted);

function fits(rule, status, value) {
  if (rule.status !== undefined && rule.status !== status) return false;
  if (rule.path === undefined) return true;
  const found = lookedUp(value, rule.path);
  if (rule.matches !== undefined) return typeof found === 'string' && new RegExp(rule.matches, rule.flags).test(found);
  if (rule.one_of !== undefined) return rule.one_of.some((wanted) => same(found, wanted));
  return same(found, rule.equals);
}

// Without a reply: k6's error codes 1100-1199 (DNS), 1200-1219 (dial) and 1300-1399 (TLS) mean that nothing was sent
function unanswered(code) {
  const unsent = (code >= 1100 && code < 1220) || (code >= 1300 && code < 1400);
  return unsent ? 'not_sent' : 'unknown';
}

function byConvention(status, value) {
  const code = value !== null && typeof value === 'object' && typeof value.code === 'string' ? value.code : null;
  if (status >= 400 && code !== null && code in CONFIG.byCode) return CONFIG.byCode[code];
  if (status >= 400 && code !== null && code.startsWith('08')) return 'unknown';
  if (status in CONFIG.byStatus) return CONFIG.byStatus[status];
  if (status >= 500) return code !== null ? 'error' : 'unknown';
  if (status >= 300 && status < 400) return 'refused';
  return code !== null && /^(2[23]|42|PGRST)\w+$/.test(code) ? 'error' : 'unclassified';
}

function outcomeOf(reply) {
  if (!reply.status) return unanswered(reply.error_code);
  const value = decoded(reply.body);
  const rule = CONFIG.rules.find((one) => fits(one, reply.status, value));
  return rule ? rule.outcome : byConvention(reply.status, value);
}

export default function scan() {
  const place = CONFIG.places[exec.scenario.name];
  const fields = Object.entries(take(place)).map(([name, value]) => [`ticket.${name}`, value]);
  const offline = Math.floor(Date.now() / 1000) - 1 - Math.floor(3600 * Math.random()); // a scan of the last hour
  const lane = {
    vu: ((exec.vu.idInTest - 1) % place.vus) + 1,
    iter: exec.vu.iterationInScenario + 1,
    scanned_at: new Date(1000 * offline).toISOString(),
  };
  const body = filled(CONFIG.args, { ...common, ...Object.fromEntries(fields), ...lane });
  const reply = http.post(url, JSON.stringify(body), params);
  const outcome = outcomeOf(reply);
  const tags = { outcome };
  if (outcome !== 'not_sent') scanDuration.add(reply.timings.duration, tags);
  scanErrors.add(CONFIG.failures.includes(outcome), tags);
  scanOutcomes.add(1, tags);
  for (const [name, outcomes] of Object.entries(CONFIG.counters)) {
    if (outcomes.includes(outcome)) counters[name].add(1, tags);
  }
  check(outcome, { 'the reply has a known meaning': (one) => one !== 'unclassified' }, tags);
  const [shortest, longest] = place.pause;
  if (longest > 0) sleep(shortest + Math.random() * (longest - shortest));
}
