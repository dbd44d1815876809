/**
 * The life of an operator token, in Node. Every step says what must come of it, so this is a test as well.
 *
 * Usage: node --wasm-max-mem-pages=512 example.js COMPONENT CLI
 *   COMPONENT  the directory into which jco has transpiled the component
 *   CLI        that of optoken-cli.wasm, which is the same with a command line and wants more than is lent here
 */

import assert from 'node:assert/strict';

import { Authority, StoreError, isAnswer, lend, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const ORIGIN = 'example';

/** What the contract answers with `err` is thrown. It is the payload: the case in `tag`, its detail in `val`. */
function refusal(call) {
  try {
    call();
  } catch (error) {
    if (isAnswer(error)) return error.payload;
    throw error;
  }
  assert.fail('it was not refused');
}

const component = await load(process.argv[2]);
const store = new MemoryStore();
const authority = new Authority(component, store);
const { authenticator, tokens } = authority;

// Create the operator token. The secret is shown this once; the store holds its hash.
const { info, secret: first } = tokens.createOperator(ORIGIN);
assert.match(first, /^apiv3_[\w-]{86}$/);
assert(!store.load().document.includes(first));
console.log(`created token ${info.id}, ${info.name}`);

// Check what a request presents.
assert.deepEqual(authenticator.authenticate(first), { id: 0n, kind: 'operator' });
console.log('its secret is accepted');

// Replace it. Without an overlap the old secret is dead before the new one is shown.
const { secret: second } = tokens.regenerate(first, 0n, ORIGIN);
assert.deepEqual(authenticator.authenticate(second), { id: 0n, kind: 'operator' });
assert.equal(refusal(() => authenticator.authenticate(first)).tag, 'unknown-token');
assert.equal(refusal(() => tokens.regenerate(first, 0n, ORIGIN)).tag, 'unauthenticated');
console.log('regenerated: the new secret is accepted, the old one refused');

// How errors arrive.
assert.deepEqual(refusal(() => tokens.createOperator(ORIGIN)), { tag: 'already-exists', val: '_admin' });
const fail = () => {
  throw new StoreError('unavailable', 'the disk is gone');
};
const { authenticator: blind } = new Authority(component, { load: fail, swap: fail });
assert.deepEqual(refusal(() => blind.authenticate(second)), { tag: 'unavailable' });
assert.deepEqual(refusal(() => blind.prepare()), { tag: 'unavailable', val: 'the disk is gone' });
console.log('without its store it accepts nobody, and tells why');

// A store that cannot say whether it has written: the component looks, so that no secret is lost for nothing.
const silent = {
  load: () => store.load(),
  swap: (expected, document) => {
    store.swap(expected, document);
    throw new StoreError('unknown-outcome', 'the connection broke');
  },
};
const { secret: saved } = new Authority(component, silent).tokens.regenerate(second, 0n, ORIGIN);
assert.deepEqual(new Authority(component, store).authenticator.authenticate(saved), { id: 0n, kind: 'operator' });
console.log('a secret is not lost with the answer of the store');

// A store must answer at once, and an asynchronous one is told so.
const later = new Authority(component, { load: async () => store.load(), swap: async () => ({ tag: 'stale' }) });
assert.throws(() => later.authenticator.authenticate(saved), { name: 'TypeError', message: /promise/ });
console.log('a store that answers later is refused');

// Two hosts on one store regenerate at once: the other one is faster, between this one's load and swap.
let third;
const overtaken = {
  load: () => store.load(),
  swap: (expected, document) => {
    third ??= tokens.regenerate(saved, 0n, ORIGIN).secret;
    return store.swap(expected, document);
  },
};
const slower = new Authority(component, overtaken);
assert.equal(refusal(() => slower.tokens.regenerate(saved, 0n, ORIGIN)).tag, 'unauthenticated');
assert.deepEqual(authenticator.authenticate(third), { id: 0n, kind: 'operator' });
console.log('of two that regenerate at once, one succeeds');

// A document that does not fit into its memory makes it trap. The next call gets a new instance.
let entry = { version: 'huge', document: 'x'.repeat(64 << 20) };
const { authenticator: survivor } = new Authority(component, { load: () => entry, swap: fail });
assert.throws(() => survivor.prepare(), WebAssembly.RuntimeError);
entry = store.load();
assert.deepEqual(survivor.authenticate(third), { id: 0n, kind: 'operator' });
console.log('it was trapped, and replaced');

// It runs with what it is lent and not with less: so that is exactly what it imports.
for (const name of Object.keys(lend(store))) {
  const { [name]: _, ...rest } = lend(store);
  assert.throws(() => component(rest), { name: 'TypeError', message: new RegExp(name) });
  console.log(`it needs ${name}`);
}

// One that wants more is not run.
const greedy = await load(process.argv[3]);
assert.throws(() => greedy(lend(store)), { name: 'TypeError', message: /wasi:cli\// });
console.log('what wants files and a command line is refused');
