#!/usr/bin/env python3
"""A worker for tallyd in one file: copy it and write your own handle(). Python 3.9 or newer.

usage: worker.py [--server URL] [--concurrency N] [--lease SECONDS] [--grace SECONDS] QUEUE...
"""
import argparse, http.client, json, os, random, signal, socket, threading, time
from urllib.parse import urlsplit


def handle(job, stop):
    """The work. What it returns (JSON, at most 64 KiB) is the job's result. What it raises fails the
    attempt: for good if it is Permanent, else to be tried again. A job may come twice, so let that do
    no harm. When the event `stop` is set, nobody waits for this attempt any more: raise something."""
    print(job["kind"], job["id"], "attempt", job["attempt"], job["payload"], flush=True)
    wish = job["payload"] if isinstance(job["payload"], dict) else {}
    if stop.wait(wish.get("seconds", 0)):
        raise InterruptedError("told to stop")
    if wish.get("refuse"):
        raise Permanent("this will never work")
    if job["attempt"] <= wish.get("failures", 0):
        raise RuntimeError("this did not work")
    return {"done": job["payload"]}


class Permanent(Exception):
    """Another attempt would fail as well."""


class Refused(Exception):
    """tallyd does not take what it was sent, now or later."""


AWAY = (OSError, http.client.HTTPException)  # cannot be reached, is draining, is too busy


def call(path, body, timeout=15, opened=lambda sock: None):
    kind = http.client.HTTPSConnection if URL.scheme == "https" else http.client.HTTPConnection
    connection = kind(URL.hostname, URL.port, timeout=timeout)
    try:
        connection.connect()
        opened(connection.sock)
        head = {"content-type": "application/json"}
        if TOKEN:
            head["authorization"] = "Bearer " + TOKEN
        connection.request("POST", URL.path.rstrip("/") + path, json.dumps(body), head)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status == 200:
        try:
            return json.loads(text)
        except ValueError:
            raise ConnectionError(f"not an answer of tallyd: {text[:500]!r}") from None
    is_passing = answer.status >= 500 or answer.status == 429
    raise (ConnectionError if is_passing else Refused)(f"{answer.status} {text[:500]}")


def finish(job, end):
    """Reports an end. The same one may be told again if its answer was lost: it counts once."""
    for pause in (0.2, 0.5, 1, 2, 4, 8, 15, 15, 15, 0):
        try:
            return call("/v1/leases/finish", [{"lease": job["lease"], **end}])
        except Refused as error:  # as it does a result that is too large
            end = {"outcome": "failed", "error": str(error)}
        except AWAY as error:
            print("tallyd is away:", error, flush=True)
        time.sleep(pause * random.uniform(0.5, 1))
    print("not reported, so its lease runs out and the job comes again:", job["id"], flush=True)


def keep(job, stop, ended):
    """Renews the lease at a third of its time. While nobody listens the work goes on, since leases
    outlive a restart; else, once the lease may have run out, somebody else may have the job."""
    third = ARGS.lease / 3
    pause, renewed = third, time.monotonic()
    while not ended.wait(pause):
        asked = time.monotonic()
        try:
            answer = call("/v1/leases/renew", {"leases": [job["lease"]]}, max(1, min(15, third)))
            if answer["results"] != ["ok"]:
                job["lost"] = True  # its lease ran out, or it was cancelled
                return stop.set()
            pause, renewed = third, asked
        except ConnectionRefusedError:
            pause, renewed = min(1, third), asked
        except Exception:
            pause = min(1, third)
        if time.monotonic() - renewed > ARGS.lease:
            print("not renewed for a whole lease, so its work stops:", job["id"], flush=True)
            job["lost"] = True
            return stop.set()


def attempt(job, stop):
    """Does the work; returns how it ended."""
    try:
        end = {"outcome": "completed", "result": handle(job, stop)}
        json.dumps(end, allow_nan=False)
    except BaseException as error:  # sys.exit() too ends the attempt alone
        end = {"outcome": "failed", "error": repr(error)[:9999]}
        end["permanent"] = isinstance(error, Permanent)
        if stop.is_set():
            end = {"outcome": "released"}
    return end


def work(job, stop):
    """One attempt, from its lease to the report of its end."""
    running[job["lease"]] = job, stop, None
    ended = threading.Event()
    keeper = threading.Thread(target=keep, args=(job, stop, ended), daemon=True)
    keeper.start()
    try:
        try:
            end = attempt(job, stop)
            running[job["lease"]] = job, stop, end  # for drain()
        finally:
            ended.set()
            keeper.join()  # a renewal after the end would count as a lost lease
        if "lost" not in job:
            finish(job, end)
    finally:
        del running[job["lease"]]


def serve_slot():
    """Leases a job and runs it, again and again until told to stop, or refused."""
    pause = 0.5
    while not stopping.is_set():
        try:
            for job in call("/v1/leases", ASK, 45, poll_opened)["jobs"]:
                if stopping.is_set():  # it was on its way when drain() hung up
                    finish(job, {"outcome": "released"})
                else:
                    work(job, threading.Event())
            pause = 0.5
        except Refused as error:
            print("tallyd refuses the lease:", error, flush=True)
            return refused.set()
        except AWAY as error:
            if not stopping.wait(pause * random.uniform(0.5, 1)):
                print("tallyd is away:", error, flush=True)
            pause = min(15, pause * 2)
        except BaseException as error:  # a slot that is gone must not go unseen
            print("the worker is broken:", repr(error), flush=True)
            return refused.set()


def poll_opened(sock):
    polls[threading.current_thread()] = sock
    if stopping.is_set():
        raise ConnectionError("stopping")


def drain():
    """Leases nothing more, lets what runs end within the grace, and gives back the rest."""
    stopping.set()
    for sock in list(polls.values()):
        try:  # to hang up but read on: a job that is on its way comes, and is given back
            socket.socket.shutdown(sock, socket.SHUT_WR)
        except OSError:
            pass  # it is closed already
    for seconds in (ARGS.grace, 5):  # and 5 s to stop
        until = time.monotonic() + seconds
        for slot in filter(threading.Thread.is_alive, slots):
            slot.join(max(0, until - time.monotonic()))
        for _, stop, _ in list(running.values()):
            stop.set()
    for job, _, end in list(running.values()):
        finish(job, end or {"outcome": "released"})


options = argparse.ArgumentParser(description="A worker for tallyd.")
options.add_argument("queues", nargs="+", metavar="QUEUE", help="looked at in this order")
options.add_argument("--server", default=os.environ.get("TALLYD_SERVER", "http://127.0.0.1:8255"))
options.add_argument("--concurrency", type=int, default=4, help="jobs at once")
options.add_argument("--lease", type=int, default=60, help="seconds until a silent worker's jobs go to others")
options.add_argument("--grace", type=int, default=25, help="seconds for running jobs when told to stop")
ARGS = options.parse_args()
if ARGS.concurrency < 1 or not 1 <= ARGS.lease <= 3600 or ARGS.grace < 0:
    options.error("--concurrency is at least 1, --lease is 1 to 3600, --grace is at least 0")
try:
    URL = urlsplit(ARGS.server)
    is_url = URL.scheme in ("http", "https") and URL.hostname and URL.port != 0
except ValueError:  # of its port, for one
    is_url = False
if not is_url:
    options.error(f"--server is a URL like http://127.0.0.1:8255, not {ARGS.server!r}")
TOKEN = os.environ.get("TALLYD_TOKEN", "").strip()  # with the role work, if tallyd asks for one
NAME = f"{socket.gethostname()}-{os.getpid()}"
ASK = {"queues": ARGS.queues, "wait": "30s", "duration": f"{ARGS.lease}s", "worker": NAME}
stopping, refused, polls, running = threading.Event(), threading.Event(), {}, {}
slots = [threading.Thread(target=serve_slot, daemon=True) for _ in range(ARGS.concurrency)]
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
try:
    for slot in slots:
        slot.start()
    refused.wait()
    code = 1
except KeyboardInterrupt:
    code = 0
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends at once
signal.signal(signal.SIGINT, signal.SIG_DFL)
drain()
os._exit(code)  # even if a handle() does not stop
