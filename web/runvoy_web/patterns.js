/**
 * Patterns of parameters, as runvoy_protocol/patterns.py compares them: never by RegExp, which takes for ever with `(a+)+b`, and
 * a playbook may be a colleague's. That file says how it goes; the numbers and the steps are the same.
 *
 * What is no pattern is no deployment's: it was read there when it was published. Here it is only kept from doing harm.
 */
import { utf8 } from "./bytes.js";

export const MAX_SIZE = 3000;
const MAX_STEPS = 9_000_000;
const NEWLINE = 10;
const OFTEN = { "*": [0, Infinity], "+": [1, Infinity], "?": [0, 1] };

/** Whether the whole value is as the pattern says; null if the pattern is too large to tell, or none. By bytes, as grep does in the C locale. */
export function matches(pattern, value) {
  const compiled = compile(pattern);
  return compiled && !value.includes("\n") && walk(compiled, utf8(value)).isMatch;
}

/** How many bytes a value may have that is held against the pattern. */
export function longest(pattern) {
  return Math.floor(MAX_STEPS / (compile(pattern)?.places.length ?? 1));
}

/** Hold all of `bytes` against a compiled pattern: {isMatch, steps}. */
export function walk({ places, first }, bytes) {
  const seen = new Int32Array(places.length).fill(-1);
  let steps = 0;
  let reached = [first];
  let isEnd = false;
  let position = 0;
  for (; reached.length > 0; position += 1) {
    const todo = reached;
    reached = [];
    isEnd = false;
    while (todo.length > 0) {
      const number = todo.pop();
      if (seen[number] === position) continue;
      seen[number] = position;
      steps += 1;
      const [allowed, after] = places[number];
      if (!allowed) {
        todo.push(...after);
        isEnd ||= after.length === 0;
      } else if (position < bytes.length && allowed.has(bytes[position])) {
        reached.push(...after);
      }
    }
  }
  return { isMatch: isEnd && position === bytes.length + 1, steps };
}

const compiledBefore = new Map();

/** The places of a pattern, each [the bytes that lead on or null, the places after it], and the first one; null if it is none. */
export function compile(pattern) {
  if (!compiledBefore.has(pattern)) {
    const tree = read(pattern);
    const places = [[null, []]];
    if (compiledBefore.size > 100) compiledBefore.clear();
    compiledBefore.set(pattern, tree && tree.size < MAX_SIZE ? { places, first: tree.put(places, 0) } : null);
  }
  return compiledBefore.get(pattern);
}

// A node of a pattern: its size, and put(), which adds its places before the place `after` and tells the first of them.

const one = (allowed) => ({ size: 1, put: (places, after) => places.push([allowed, [after]]) - 1 });

const sum = (nodes) => nodes.reduce((size, node) => size + node.size, 0);

const row = (nodes) => (nodes.length === 1 ? nodes[0] : {
  size: sum(nodes),
  put: (places, after) => nodes.reduceRight((then, node) => node.put(places, then), after),
});

const choice = (nodes) => (nodes.length === 1 ? nodes[0] : {
  size: sum(nodes) + 1,
  put: (places, after) => places.push([null, nodes.map((node) => node.put(places, after))]) - 1,
});

const repeat = (node, low, high) => ({
  size: node.size * low + (node.size + 1) * (high === Infinity ? 1 : high - low),
  put(places, after) {
    let first = after;
    if (high === Infinity) {
      first = places.push([null, []]) - 1;
      places[first][1] = [node.put(places, first), after];
    } else {
      for (let times = low; times < high; times += 1) first = places.push([null, [node.put(places, first), after]]) - 1;
    }
    for (let times = 0; times < low; times += 1) first = node.put(places, first);
    return first;
  },
});

/** The pattern as a tree; null if it is none. */
function read(pattern) {
  const tokens = pattern.matchAll(/\\(.)|\[(\^?)([^\]]+)\]|\{(\d+)(,?)(\d*)\}|[\s\S]/g);
  const groups = [[[]]]; // the alternatives of each open bracket, each the nodes of a row
  for (const [token, escaped, not, members, low, comma, high] of tokens) {
    const alternatives = groups.at(-1);
    const nodes = alternatives.at(-1);
    if (token === "(") groups.push([[]]);
    else if (token === "|") alternatives.push([]);
    else if (token === ")") {
      if (groups.length === 1) return null;
      groups.pop();
      groups.at(-1).at(-1).push(choice(alternatives.map(row)));
    } else if (OFTEN[token] || low) {
      const often = OFTEN[token] ?? [Number(low), high ? Number(high) : comma ? Infinity : Number(low)];
      // What has no size could be repeated without end.
      if (!nodes.at(-1)?.size || often[1] === 0) return null;
      nodes.push(repeat(nodes.pop(), ...often));
    } else if (members) nodes.push(one(setOf(members, not)));
    else nodes.push(one(token === "." ? setOf("", true) : new Set(utf8(escaped ?? token))));
  }
  return groups.length === 1 ? choice(groups[0].map(row)) : null;
}

function setOf(members, not) {
  const allowed = new Set();
  for (const [, low, high, single] of members.matchAll(/(.)-(.)|(.)/g)) {
    const [from, to] = [low ?? single, high ?? single].map((character) => character.charCodeAt(0));
    for (let byte = from; byte <= to; byte += 1) allowed.add(byte);
  }
  return not ? new Set(Array.from({ length: 256 }, (_, byte) => byte).filter((byte) => byte !== NEWLINE && !allowed.has(byte))) : allowed;
}
