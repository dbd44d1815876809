/**
 * The lifecycle of an operator token, in Node. Every step asserts its result, so the example is
 * also a test.
 *
 * Usage: node --wasm-max-mem-pages=512 example.js COMPONENT CLI
 *   COMPONENT  the output directory of jco for optoken.wasm
 *   CLI        the output directory of jco for optoken-cli.wasm, which has a command line and
 *              imports more than this host provides
 */

import assert from 'node:assert/strict';

import { Authority, StoreError, createImports, isContractError, load } from './authority.js';
import { MemoryStore } from './memory-store.js';

const ORIGIN = 'example';

/** Returns the caller that presents this secret. */
const caller = (credential) => ({ credential, origin: ORIGIN });

/** Returns the `err` that `call` throws: the case in `tag`, its detail in `val`. */
function contractError(call) {
  try {
    call();
  } catch (error) {
    if (isContractError(error)) return error.payload;
    throw error;
  }
  assert.fail('the call did not fail');
}

const component = await load(process.argv[2]);
const store = new MemoryStore();
const authority = new Authority(component, store);
const { authenticator, tokens } = authority;

// Create the operator token. The component returns the secret once, and stores its hash.
const { info, secret: first } = tokens.createOperator(ORIGIN);
assert.match(first, /^apiv3_[\w-]{86}$/);
assert(!store.load().document.includes(first));
console.log(`created token ${info.id}, ${info.name}`);

// Check the token of a request.
assert.deepEqual(authenticator.authenticate(first), { id: 0n, kind: 'operator' });
console.log('the secret is accepted');

// Replace the token. Without an overlap the old secret is invalid before the new one is returned.
const { secret: second } = tokens.regenerate(caller(first), undefined);
assert.deepEqual(authenticator.authenticate(second), { id: 0n, kind: 'operator' });
assert.equal(contractError(() => authenticator.authenticate(first)).tag, 'unknown-token');
assert.equal(contractError(() => tokens.regenerate(caller(first), undefined)).tag, 'unauthenticated');
console.log('regenerated: the new secret is accepted, the old one rejected');

// Errors of the contract and of the store.
assert.deepEqual(contractError(() => tokens.createOperator(ORIGIN)), { tag: 'already-exists', val: '_admin' });
const fail = () => {
  throw new StoreError('unavailable', 'the disk is gone');
};
const { authenticator: storeless } = new Authority(component, { load: fail, swap: fail });
assert.deepEqual(contractError(() => storeless.authenticate(second)), { tag: 'unavailable' });
assert.deepEqual(contractError(() => storeless.load()), { tag: 'unavailable', val: 'the disk is gone' });
console.log('without a store every token is rejected, with the reason');

// The outcome of a swap is unknown. The component loads the catalog again, so no secret is lost.
const lossy = {
  load: () => store.load(),
  swap: (expected, document) => {
    store.swap(expected, document);
    throw new StoreError('unknown-outcome', 'the connection broke');
  },
};
const { secret: saved } = new Authority(component, lossy).tokens.regenerate(caller(second), undefined);
assert.deepEqual(new Authority(component, store).authenticator.authenticate(saved), { id: 0n, kind: 'operator' });
console.log('the secret survives a lost response of the store');

// A store must be synchronous. The host rejects a promise.
const asynchronous = new Authority(component, { load: async () => store.load(), swap: async () => ({ tag: 'stale' }) });
assert.throws(() => asynchronous.authenticator.authenticate(saved), { name: 'TypeError', message: /promise/ });
console.log('an asynchronous store is rejected');

// Two hosts with one store regenerate at once. The other host swaps between load and swap of this
// one.
let third;
const contended = {
  load: () => store.load(),
  swap: (expected, document) => {
    third ??= tokens.regenerate(caller(saved), undefined).secret;
    return store.swap(expected, document);
  },
};
const slower = new Authority(component, contended);
assert.equal(contractError(() => slower.tokens.regenerate(caller(saved), undefined)).tag, 'unauthenticated');
assert.deepEqual(authenticator.authenticate(third), { id: 0n, kind: 'operator' });
console.log('of two concurrent regenerations, one succeeds');

// A token with permissions is no admin token: each request needs one that covers it.
const permissions = ['db:sensors:read', 'http:/orders/*:GET'];
const { secret: scoped } = tokens.createNamed(caller(third), 'ci', permissions, undefined);
assert.deepEqual(authenticator.authenticate(scoped), { id: 1n, kind: 'scoped' });
const access = (method, path, target) => ({ method, host: '', path, query: undefined, target });
const sensors = (action) => ({ tag: 'database', val: { name: 'sensors', action } });
for (const request of [access('GET', '/orders/7', { tag: 'http' }), access('POST', '/api/v3/query_sql', sensors('read'))])
  assert.equal(authenticator.authorize(scoped, request).kind, 'scoped');
for (const request of [
  access('POST', '/orders/7', { tag: 'http' }),
  access('GET', '/orders/../users', { tag: 'http' }),
  access('POST', '/api/v3/write_lp', sensors('write')),
  access('GET', '/', { tag: 'administration' }),
]) {
  assert.equal(contractError(() => authenticator.authorize(scoped, request)).tag, 'forbidden');
  assert.equal(authenticator.authorize(third, request).kind, 'operator');
  assert.equal(contractError(() => authenticator.authorize(second, request)).tag, 'unknown-token');
}
assert.equal(contractError(() => tokens.createNamed(caller(scoped), 'other', undefined, undefined)).tag, 'forbidden');
console.log('a token with permissions may do what they cover, and nothing else');

// A document that exceeds the memory of the instance makes it trap. The next call gets a new one.
let entry = { version: 'huge', document: 'x'.repeat(64 << 20) };
const { authenticator: replaced } = new Authority(component, { load: () => entry, swap: fail });
assert.throws(() => replaced.load(), WebAssembly.RuntimeError);
entry = store.load();
assert.deepEqual(replaced.authenticate(third), { id: 0n, kind: 'operator' });
console.log('an instance that trapped is replaced');

// The component runs with these imports and with none fewer, so it imports exactly these.
for (const name of Object.keys(createImports(store))) {
  const { [name]: _, ...rest } = createImports(store);
  assert.throws(() => component(rest), { name: 'TypeError', message: new RegExp(name) });
  console.log(`the component imports ${name}`);
}

// A component that imports more cannot be instantiated.
const excessive = await load(process.argv[3]);
assert.throws(() => excessive(createImports(store)), { name: 'TypeError', message: /wasi:cli\// });
console.log('a component that imports files and a command line is rejected');
