// A load test as such teams write it: every iteration scans another ticket, then ten scanners race for one.
import http from 'k6/http';
import { Counter } from 'k6/metrics';
import { SharedArray } from 'k6/data';
import exec from 'k6/execution';

const tickets = new SharedArray('tickets', () => JSON.parse(open(__ENV.TICKETS)).tickets);
const admitted = new Counter('admitted');
const raceWon = new Counter('race_won');

export const options = {
  scenarios: {
    burst: { executor: 'shared-iterations', vus: 4, iterations: 20, exec: 'burst', maxDuration: '20s' },
    race: { executor: 'per-vu-iterations', vus: 10, iterations: 1, exec: 'race', maxDuration: '20s' },
  },
  thresholds: { admitted: ['count==20'], race_won: ['count==1'], http_req_failed: ['rate==0'] },
};

function scan(id) {
  const key = __ENV.SUPABASE_SECRET_KEY;
  const body = { p_ticket_id: id, p_scanned_by: __ENV.TEST_SCANNER_ID, p_device_id: 'k6', p_scan_method: 'qr' };
  const headers = { apikey: key, Authorization: `Bearer ${key}`, 'Content-Type': 'application/json' };
  const reply = http.post(`${__ENV.SUPABASE_URL}/rest/v1/rpc/scan_ticket_atomic`, JSON.stringify(body), { headers });
  return reply.json()[0].success === true;
}

export function burst() {
  if (scan(tickets[exec.scenario.iterationInTest].id)) admitted.add(1);
}

export function race() {
  if (scan(__ENV.RACE_TEST_TICKET_ID)) raceWon.add(1);
}
