/**
 * How fast the component is in Node, as one line of JSON.
 *
 * Usage: node bench.js COMPONENT
 *   COMPONENT  the directory into which jco has transpiled the component
 */

import { Authority, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const DURATION = 2000;

/** How many milliseconds one call takes, on average over some time. */
function measure(call) {
  const start = performance.now();
  let calls = 0;
  let elapsed;
  do {
    call();
    calls += 1;
    elapsed = performance.now() - start;
  } while (elapsed < DURATION);
  return elapsed / calls;
}

const start = performance.now();
const component = await load(process.argv[2]);
const loaded = performance.now() - start;

const store = new MemoryStore();
const { authenticator, tokens } = new Authority(component, store);
const { secret } = tokens.createOperator('bench');
// What is compiled while it runs must not count.
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
