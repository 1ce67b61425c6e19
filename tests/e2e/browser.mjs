// Drives a headless Chromium through a script and reports what it saw.
//
// stdin:  {"page": URL, "steps": [{"do": ..., ...}], "timeout_ms": 60000, "canvas": "#screen canvas"}
// stdout: one line of JSON: {"ok", "error", "step", "values", "console", "sockets", "seconds"}
//
// Steps (x and y are framebuffer coordinates; "as" names the step's result in "values"):
//   {"do": "call", "function": "start", "arguments": [...]}     a function of the page
//   {"do": "wait", "until": "window.state === 'connected'"}     an expression becomes true
//   {"do": "value", "of": "window.state", "as": "state"}        an expression
//   {"do": "text", "selector": "#state", "as": "state"}         an element's text
//   {"do": "press", "selector": "#user-ada"}                    a click on an element
//   {"do": "pixels", "points": [[x, y], ...], "as": "corners"}  [[r, g, b], ...]
//   {"do": "wait_pixels", "points": ..., "colours": [[r, g, b], ...]}
//   {"do": "move" | "click", "at": [x, y]}                      the mouse on the canvas
//   {"do": "type", "text": "abc"}, {"do": "key", "key": "Enter"}
//   {"do": "file", "path": "typed", "bytes": 14}                a file has grown to this size
//   {"do": "screenshot", "path": "shot.png"}
//   {"do": "look", "scheme": "dark", "width": 1024, "height": 768}   what the page is shown on
// Every step takes a "timeout_ms" of its own.

import { createRequire } from 'node:module';
import { readFileSync, statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const tools = process.env.DESKGATE_TOOLS
  ? `${process.env.DESKGATE_TOOLS}/package.json`
  : fileURLToPath(new URL('../../target/tools/package.json', import.meta.url));
const { chromium } = createRequire(tools)('playwright-core');

const script = JSON.parse(readFileSync(0, 'utf8'));
const patience = script.timeout_ms ?? 60000;
const started = Date.now();
const report = { ok: false, error: null, step: null, values: {}, console: [], sockets: [] };

// What is printed may be kept, so it holds no token.
const redact = (text) => String(text).replace(/(jwt_token=|Bearer )[^'"\s&]+/g, '$1...');

async function canvasOf(page) {
  const canvas = page.locator(script.canvas ?? '#screen canvas').first();
  await canvas.waitFor({ state: 'visible' });
  return canvas;
}

async function pixels(page, points) {
  const canvas = await canvasOf(page);
  return canvas.evaluate((element, wanted) => {
    const context = element.getContext('2d');
    return wanted.map(([x, y]) => Array.from(context.getImageData(x, y, 1, 1).data.slice(0, 3)));
  }, points);
}

// Where a point of the framebuffer is in the window, however the canvas is scaled.
async function inWindow(page, [x, y]) {
  const canvas = await canvasOf(page);
  return canvas.evaluate((element, at) => {
    const box = element.getBoundingClientRect();
    return [
      box.left + ((at[0] + 0.5) * box.width) / element.width,
      box.top + ((at[1] + 0.5) * box.height) / element.height,
    ];
  }, [x, y]);
}

const steps = {
  call: (page, { function: name, arguments: values = [] }) =>
    page.evaluate(([f, list]) => window[f](...list), [name, values]),
  // Asked again and again from here: a page's own policy may forbid it to evaluate text.
  async wait(page, { until, timeout_ms: timeout = patience }) {
    const deadline = Date.now() + timeout;
    while (!(await page.evaluate(until))) {
      if (Date.now() > deadline) throw new Error(`not within ${timeout} ms: ${until}`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  },
  value: (page, { of }) => page.evaluate(of),
  text: (page, { selector }) => page.locator(selector).innerText(),
  press: (page, { selector }) => page.locator(selector).click(),
  pixels: (page, { points }) => pixels(page, points),
  async wait_pixels(page, { points, colours, timeout_ms: timeout = patience }) {
    const wanted = JSON.stringify(colours);
    const deadline = Date.now() + timeout;
    for (;;) {
      const seen = await pixels(page, points);
      if (JSON.stringify(seen) === wanted) return seen;
      if (Date.now() > deadline) throw new Error(`pixels are ${JSON.stringify(seen)}, not ${wanted}`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  },
  async move(page, { at }) {
    await page.mouse.move(...(await inWindow(page, at)));
  },
  async click(page, { at }) {
    await page.mouse.click(...(await inWindow(page, at)));
  },
  type: (page, { text }) => page.keyboard.type(text),
  key: (page, { key }) => page.keyboard.press(key),
  async file(page, { path, bytes, timeout_ms: timeout = patience }) {
    const deadline = Date.now() + timeout;
    while (statSync(path).size < bytes) {
      if (Date.now() > deadline) throw new Error(`${path} has ${statSync(path).size} bytes`);
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  },
  async look(page, { scheme, width, height }) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize({ width, height });
  },
  screenshot: (page, { path }) => page.screenshot({ path }).then(() => null),
};

function record(page) {
  const keep = (list, entry) => { if (list.length < 200) list.push(entry); };
  page.on('console', (message) => keep(report.console, `${message.type()}: ${redact(message.text())}`));
  page.on('pageerror', (error) => keep(report.console, `exception: ${redact(error.message)}`));
  page.on('websocket', (socket) => {
    const entry = { url: redact(socket.url()), received: 0, sent: 0, closed: false, error: null };
    keep(report.sockets, entry);
    socket.on('framereceived', () => { entry.received += 1; });
    socket.on('framesent', () => { entry.sent += 1; });
    socket.on('socketerror', (error) => { entry.error = redact(error); });
    socket.on('close', () => { entry.closed = true; });
  });
}

let browser;
try {
  browser = await chromium.launch({
    executablePath: process.env.DESKGATE_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    timeout: 60000,
    args: [
      '--no-sandbox', // the tests' own pages; root has no sandbox
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  const page = await browser.newPage({ viewport: { width: 1024, height: 768 }, ignoreHTTPSErrors: true });
  page.setDefaultTimeout(patience);
  record(page);
  report.step = `page ${redact(script.page)}`;
  const answer = await page.goto(script.page);
  report.values.page_status = answer?.status() ?? null;
  for (const [index, step] of script.steps.entries()) {
    report.step = `${index}: ${step.do}`;
    const result = await steps[step.do](page, step);
    if (step.as) report.values[step.as] = result ?? null;
  }
  report.step = null;
  report.ok = true;
} catch (error) {
  report.error = redact(error.message);
} finally {
  await browser?.close();
}
report.seconds = (Date.now() - started) / 1000;
process.stdout.write(`${JSON.stringify(report)}\n`);
