#!/usr/bin/env node
// A worker for tallyd in one file: copy it and write your own handle(). Node 18.3 or newer.
//
// usage: worker.mjs [--server URL] [--concurrency N] [--lease SECONDS] [--grace SECONDS] QUEUE...
import http from "node:http";
import https from "node:https";
import os from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";

// The work. What it returns (JSON, at most 64 KiB) is the job's result. What it throws fails the
// attempt: for good if it is Permanent, else to be tried again. A job may come twice, so let that do
// no harm. When `stop` is aborted, nobody waits for this attempt any more: throw something. Work that
// never awaits keeps its lease from being renewed, so give it to a worker thread or a process.
async function handle(job, stop) {
  console.log(job.kind, job.id, "attempt", job.attempt, JSON.stringify(job.payload));
  const wish = job.payload ?? {};
  if (wish.seconds) await sleep(wish.seconds * 1000, undefined, { signal: stop });
  if (wish.refuse) throw new Permanent("this will never work");
  if (job.attempt <= (wish.failures ?? 0)) throw new Error("this did not work");
  return { done: job.payload };
}

class Permanent extends Error {} // another attempt would fail as well
class Refused extends Error {} // tallyd does not take what it was sent, now or later

const { values: options, positionals: queues } = parseArgs({
  allowPositionals: true,
  options: {
    server: { type: "string", default: process.env.TALLYD_SERVER ?? "http://127.0.0.1:8255" },
    concurrency: { type: "string", default: "4" }, // jobs at once
    lease: { type: "string", default: "60" }, // seconds until a silent worker's jobs go to others
    grace: { type: "string", default: "25" }, // seconds for running jobs when told to stop
  },
});
for (const [name, least, most] of [["concurrency", 1, 1e6], ["lease", 1, 3600], ["grace", 0, 1e6]]) {
  const value = options[name];
  const isRight = /^[0-9]+$/.test(value) && Number(value) >= least && Number(value) <= most;
  if (!isRight) misused(`--${name} is a whole number from ${least} to ${most}, not ${value}`);
}
try {
  if (!/^https?:[/][/]/.test(options.server)) throw new Error("another scheme");
  new URL(options.server);
} catch {
  misused(`--server is a URL like http://127.0.0.1:8255, not ${options.server}`);
}
if (queues.length === 0) misused("name the queues to look at");
const lease_ms = Number(options.lease) * 1000;
const stopping = new AbortController();
const token = (process.env.TALLYD_TOKEN ?? "").trim(); // with the role work, if tallyd asks for one
const polls = new Set(); // the open requests for jobs
const running = new Map(); // job → what stops it, and its end once that is known

function misused(message) {
  console.error("worker.mjs:", message);
  process.exit(2);
}

// Resolves with the answer; throws Refused, or another error if tallyd is away, draining or too busy.
async function call(path, body, timeout = 15_000, opened = () => {}) {
  const { request } = options.server.startsWith("https:") ? https : http;
  const url = options.server.replace(/\/$/, "") + path;
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  const answer = await new Promise((resolve, reject) => {
    const asked = request(url, { method: "POST", agent: false, headers, timeout }, resolve);
    asked.on("timeout", () => asked.destroy(new Error("no answer in time"))).on("error", reject);
    asked.end(JSON.stringify(body));
    opened(asked);
  });
  let text = "";
  for await (const chunk of answer.setEncoding("utf8")) text += chunk;
  if (answer.statusCode === 200) return JSON.parse(text);
  const isPassing = answer.statusCode >= 500 || answer.statusCode === 429;
  throw new (isPassing ? Error : Refused)(`${answer.statusCode} ${text.slice(0, 500)}`);
}

// Reports an end. The same one may be told again if its answer was lost: it counts once.
async function finish(job, end) {
  for (const pause of [0.2, 0.5, 1, 2, 4, 8, 15, 15, 15, 0]) {
    try {
      return await call("/v1/leases/finish", [{ lease: job.lease, ...end }]);
    } catch (error) {
      // It refuses a result that is too large, for one.
      if (error instanceof Refused) end = { outcome: "failed", error: error.message };
      else console.log("tallyd is away:", error.message);
    }
    await sleep(pause * (500 + 500 * Math.random()));
  }
  console.log("not reported, so its lease runs out and the job comes again:", job.id);
}

// Renews the lease at a third of its time. While nobody listens the work goes on, since leases
// outlive a restart; else, once the lease may have run out, somebody else may have the job.
async function keep(job, stop, ended) {
  const third = lease_ms / 3;
  const patience = Math.max(1000, Math.min(15_000, third));
  let renewed = performance.now();
  for (let pause = third; ; ) {
    try {
      await sleep(pause, undefined, { signal: ended.signal });
    } catch {
      return true; // the attempt has ended
    }
    const asked = performance.now();
    try {
      const { results } = await call("/v1/leases/renew", { leases: [job.lease] }, patience);
      [pause, renewed] = [third, asked];
      if (results[0] === "ok") continue;
      stop.abort();
      return false; // its lease ran out, or it was cancelled
    } catch (error) {
      pause = Math.min(1000, third);
      if (error.code === "ECONNREFUSED") renewed = asked;
    }
    if (performance.now() - renewed > lease_ms) {
      console.log("not renewed for a whole lease, so its work stops:", job.id);
      stop.abort();
      return false;
    }
  }
}

// One attempt, from its lease to the report of its end.
async function work(job) {
  const [stop, ended] = [new AbortController(), new AbortController()];
  running.set(job, { stop });
  const kept = keep(job, stop, ended);
  let end;
  try {
    end = { outcome: "completed", result: await handle(job, stop.signal) };
    JSON.stringify(end);
  } catch (error) {
    end = { outcome: "failed", error: String(error).slice(0, 9999) };
    end.permanent = error instanceof Permanent;
    if (stop.signal.aborted) end = { outcome: "released" };
  }
  running.set(job, { stop, end });
  ended.abort();
  // A renewal after the end would count as a lost lease.
  if (await kept) await finish(job, end);
  running.delete(job);
}

// Leases a job and runs it, again and again until told to stop; throws if it is refused.
async function serveSlot() {
  const worker = `${os.hostname()}-${process.pid}`;
  const ask = { queues, wait: "30s", duration: `${options.lease}s`, worker };
  for (let pause = 500; !stopping.signal.aborted; ) {
    let poll;
    try {
      const { jobs } = await call("/v1/leases", ask, 45_000, (asked) => polls.add((poll = asked)));
      pause = 500;
      for (const job of jobs) {
        // One that was on its way when drain() hung up is given back.
        await (stopping.signal.aborted ? finish(job, { outcome: "released" }) : work(job));
      }
    } catch (error) {
      if (error instanceof Refused) throw error;
      if (stopping.signal.aborted) return;
      console.log("tallyd is away:", error.message);
      await sleep(pause * (0.5 + Math.random() / 2), undefined, { signal: stopping.signal }).catch(() => {});
      pause = Math.min(15_000, pause * 2);
    } finally {
      polls.delete(poll);
    }
  }
}

// Leases nothing more, lets what runs end within the grace, gives back the rest, and ends.
async function drain(code) {
  if (stopping.signal.aborted) return;
  for (const name of ["SIGTERM", "SIGINT"]) process.removeAllListeners(name); // a second one ends at once
  stopping.abort();
  // Hangs up but reads on: a job that is on its way comes, and is given back.
  for (const poll of polls) poll.socket ? poll.socket.end() : poll.destroy();
  for (const seconds of [options.grace, 5]) { // and 5 s to stop
    await Promise.race([Promise.allSettled(slots), sleep(seconds * 1000)]);
    for (const { stop } of running.values()) stop.abort();
  }
  await Promise.all([...running].map(([job, { end }]) => finish(job, end ?? { outcome: "released" })));
  process.exit(code);
}

const slots = Array.from({ length: Number(options.concurrency) }, serveSlot);
for (const name of ["SIGTERM", "SIGINT"]) process.on(name, () => drain(0));
Promise.all(slots).catch((error) => {
  console.log("tallyd refuses the lease:", error.message);
  drain(1);
});
