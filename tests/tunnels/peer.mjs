// A peer of tunnels on Node's `ws`: the same as peer.py, which tells what each part does.
//
//     node peer.mjs pod HOST PORT
//     node peer.mjs client URL SEED [SIZE]
//     node peer.mjs echo URL COUNT
//
// DESKGATE_TOOLS is the folder with node_modules.

import { createHash, randomBytes } from 'node:crypto';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(`${process.env.DESKGATE_TOOLS}/`);
const { WebSocket, WebSocketServer } = require('ws');

const FRAGMENT = 256 * 1024;
const DEFLATE = { threshold: 0, zlibDeflateOptions: { level: 1 } };
const SIZES = [0, 1, 125, 126, 127, 1000, 65535, 65536, 65537, 300_000, 1 << 20, (4 << 20) + 3];

function check(truth, what) {
  if (!truth) throw new Error(what);
}

// Numbers in [0, 1), the same for the same seed (mulberry32).
function numbers(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// Half of the messages are worth compressing.
function noise(random, size) {
  if (random() < 0.5) return randomBytes(size);
  return Buffer.alloc(size, randomBytes(1 + (size >> 6)));
}

function digest(data, binary) {
  return createHash('sha256').update(binary ? 'b' : 't').update(data).digest('hex');
}

// Counts control frames. A pong that answers none of this side's pings is strange.
class Counting {
  pings = 0;
  pongs = 0;
  strange = 0;
  own = new Set();
  constructor(socket) {
    this.socket = socket;
    socket.on('ping', () => { this.pings += 1; });
    socket.on('pong', (data) => {
      this.pongs += 1;
      if (!this.own.delete(data.toString('hex'))) this.strange += 1;
    });
  }
  ping() {
    const payload = randomBytes(8); // As long as deskgate's.
    this.own.add(payload.toString('hex'));
    this.socket.ping(payload);
  }
  counted() {
    return { pings: this.pings, pongs: this.pongs, strange: this.strange };
  }
}

// Waits until it is handed to the system, so that nothing piles up here.
function send(socket, data, options) {
  return new Promise((done, fail) => {
    socket.send(data, options, (error) => (error ? fail(error) : done()));
  });
}

// `ws` cuts nothing by itself. Text is cut anywhere: a fragment need not be UTF-8 for itself.
async function sendPieces(socket, data, binary, size) {
  for (let at = 0; at < data.length; at += size) {
    const fin = at + size >= data.length;
    await send(socket, data.subarray(at, at + size), { binary, fin });
  }
}

async function drip(socket, counting, random, count, size, pause) {
  const hash = createHash('sha256').update('b');
  for (let n = 0; n < count; n += 1) {
    const piece = noise(random, size);
    hash.update(piece);
    await send(socket, piece, { binary: true, fin: n === count - 1 });
    if (n > count / 2 && random() < 0.5) counting.ping();
    if (n < count - 1) await sleep(pause * 1000);
  }
  return hash.digest('hex');
}

function serve(socket) {
  const counting = new Counting(socket);
  const random = numbers(7);
  let turn = Promise.resolve();
  const answer = async (data, binary) => {
    const text = binary ? '' : data.subarray(0, 99).toString();
    if (text.startsWith('drip ')) {
      const [count, size, pause] = text.split(' ').slice(1).map(Number);
      await send(socket, await drip(socket, counting, random, count, size, pause));
    } else if (text === 'report') {
      await send(socket, JSON.stringify(counting.counted()));
    } else if (data.length > 8 << 20 || (data.length > 2 * FRAGMENT && random() < 0.5)) {
      // What is compressed whole answers no ping meanwhile.
      await sendPieces(socket, data, binary, FRAGMENT);
    } else {
      await send(socket, data, { binary });
    }
  };
  socket.on('message', (data, binary) => {
    turn = turn.then(() => answer(data, binary));
    turn.catch((error) => console.error(error));
  });
  socket.on('error', (error) => console.error(error));
}

function pod(host, port) {
  const server = new WebSocketServer({ host, port: Number(port), perMessageDeflate: DEFLATE });
  server.on('listening', () => console.log('ready'));
  server.on('connection', serve);
  process.stdin.on('end', () => process.exit()).resume();
}

async function echo(url, count) {
  for (let n = 0; n < Number(count); n += 1) {
    const socket = new WebSocket(url, { perMessageDeflate: DEFLATE });
    serve(socket);
    await new Promise((over) => { socket.on('close', over); });
  }
  console.log('done');
}

// Messages in the order they came, also those that nobody waits for yet.
function inbox(socket) {
  const waiting = [];
  const come = [];
  let failed;
  const fail = (error) => {
    failed = error;
    for (const [, reject] of waiting.splice(0)) reject(error);
  };
  socket.on('message', (data, binary) => {
    const [take] = waiting.shift() ?? [];
    if (take) take([data, binary]);
    else come.push([data, binary]);
  });
  socket.on('error', fail);
  socket.on('close', (code, reason) => fail(new Error(`closed: ${code} ${reason}`)));
  return () => new Promise((take, reject) => {
    if (come.length) take(come.shift());
    else if (failed) reject(failed);
    else waiting.push([take, reject]);
  });
}

async function echoes(socket, counting, next, random, sizes) {
  for (let at = sizes.length - 1; at > 0; at -= 1) {
    const other = Math.floor(random() * (at + 1));
    [sizes[at], sizes[other]] = [sizes[other], sizes[at]];
  }
  const sent = [];
  let got = 0;
  let wake = () => {};
  const sending = (async () => {
    for (const size of sizes) {
      while (sent.length - got >= 4) await new Promise((resolve) => { wake = resolve; });
      const text = size < 1 << 20 && random() < 0.4;
      const data = text ? Buffer.from('grüße \u{1f5a5}'.repeat(size / 8)) : noise(random, size);
      sent.push(digest(data, !text));
      if ((data.length > 100 && random() < 0.5) || size > 8 << 20) {
        await sendPieces(socket, data, !text, Math.max(7, Math.min(FRAGMENT, Math.floor(size / 5))));
      } else {
        await send(socket, data, { binary: !text });
      }
      if (random() < 0.3) counting.ping();
    }
  })();
  sending.catch(() => {}); // It fails with the receiving side.
  for (; got < sizes.length; wake()) {
    const [data, binary] = await next();
    check(digest(data, binary) === sent[got], `message ${got} came back as another one`);
    got += 1;
  }
  await sending;
  return got;
}

async function client(url, seed, size) {
  const random = numbers(Number(seed));
  const socket = new WebSocket(url, { perMessageDeflate: DEFLATE });
  const counting = new Counting(socket);
  const next = inbox(socket);
  const text = async () => (await next())[0].toString();
  await new Promise((open, fail) => socket.on('open', open).on('error', fail));
  check(socket.extensions === 'permessage-deflate', 'permessage-deflate was not agreed on');
  const messages = await echoes(socket, counting, next, random,
    size ? [Number(size)] : [...SIZES, ...SIZES]);
  await send(socket, 'drip 12 3000 0.12');
  const slow = digest(...(await next()));
  check(slow === await text(), 'a slow message came as another one');
  const hashed = await drip(socket, counting, random, 12, 3000, 0.12);
  check(digest(...(await next())) === hashed, 'a slow message came back as another one');
  await sleep(1200);
  await send(socket, 'report');
  const pod = JSON.parse(await text());
  const closed = new Promise((done) => {
    socket.on('close', (code, reason) => done([code, reason.toString()]));
  });
  socket.close(4001, 'grüße');
  console.log(JSON.stringify({ messages, client: counting.counted(), pod, closed: await closed }));
}

const [what, ...given] = process.argv.slice(2);
await { pod, client, echo }[what](...given);
