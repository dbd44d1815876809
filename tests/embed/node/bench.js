/**
 * Measures the component in Node, and prints one line of JSON.
 *
 * Usage: node bench.js COMPONENT
 *   COMPONENT  the output directory of jco
 */

import { Authority, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const DURATION_MILLISECONDS = 2000;

/** Returns the mean duration of a call in milliseconds. */
function measure(call) {
  const start = performance.now();
  let calls = 0;
  let elapsed;
  do {
    call();
    calls += 1;
    elapsed = performance.now() - start;
  } while (elapsed < DURATION_MILLISECONDS);
  return elapsed / calls;
}

const start = performance.now();
const component = await load(process.argv[2]);
const loaded = performance.now() - start;

const store = new MemoryStore();
const { authenticator, tokens } = new Authority(component, store);
const { secret } = tokens.createOperator('bench');
// Warm-up: the measurement must not include just-in-time compilation.
for (let warm = 0; warm < 10_000; warm += 1) authenticator.authenticate(secret);

const authenticate = measure(() => authenticator.authenticate(secret));
const instantiate = measure(() => new Authority(component, store));
console.log(
  JSON.stringify({
    host: 'node',
    authenticate_per_second: Math.round(1000 / authenticate),
    instantiate_microseconds: Math.round(1000 * instantiate),
    load_milliseconds: Math.round(loaded),
  }),
);
