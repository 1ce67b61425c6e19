//! Moves bytes both ways between a client and a pod until both have ended.
//!
//! One task, driven by readiness, with one timer. A silent side is asked with a WebSocket ping
//! whether it is still there, and a tunnel that we end is told why with a Close frame (RFC 6455
//! §5.5); both go only between two frames.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};

use super::direction::{BUFFER, Broken, Direction, Own, Peer};
use super::ends::End;
use super::frames::Side;
use super::registry::{Flow, Tunnel};

/// After one side has ended, the other may be silent for this long.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// Time to get a Close frame of ours out, and again to see it answered.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// So many pings in a row may stay unanswered.
const PINGS: u8 = 2;

/// Shortest time between two pings.
const RARELY: Duration = Duration::from_millis(50);

/// Longer limits are as good as none; times stay far from overflow.
const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

thread_local! {
    /// The buffer that all relays of a thread read into. It is taken out while it is used.
    static SHARED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// How long a tunnel may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Nothing received from either side for so long ends the tunnel.
    pub idle: Duration,
    /// Nothing received from one side for so long sends it a ping; a side that misses two is lost.
    /// At least a second. None sends no pings.
    pub ping: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(3600), ping: Some(Duration::from_secs(25)) }
    }
}

/// What a tunnel was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// From the client to the pod.
    pub to_pod: Flow,
    /// From the pod to the client.
    pub to_client: Flow,
    /// How it ended.
    pub end: End,
}

/// Bytes that arrived together with the heads.
#[derive(Debug, Default)]
pub struct Early {
    /// From the client.
    pub to_pod: Bytes,
    /// From the pod.
    pub to_client: Bytes,
}

/// Relays until both sides have ended, one is lost, a limit is passed, or `tunnel` is told to end.
///
/// A client that may not have received all yet is returned: its system has taken our last words, and forgets
/// them if the stream is dropped while the client speaks.
pub fn relay<C, P>(
    client: C,
    pod: P,
    early: Early,
    tunnel: Tunnel,
    limits: Limits,
) -> impl Future<Output = (Outcome, Option<C>)>
where
    C: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    // Made here and not in the block, whose future would have room for the arguments twice.
    let mut relay = Relay::new(client, pod, early, tunnel, limits);
    async move {
        let mut timer = pin!(sleep_until(relay.next()));
        let end = poll_fn(|cx| relay.poll(cx, timer.as_mut())).await;
        relay.tunnel.ended(end);
        let [to_pod, to_client] = relay.flows();
        let unheard = relay.is_unheard();
        let client = unheard.then_some(relay.client.stream);
        (Outcome { to_pod, to_client, end }, client)
    }
}

/// A side's present silence.
struct Silence {
    /// When it began, or the last ping became due in it. Not more than one of them in one interval: a process
    /// that was stopped for long, or its machine, gives the side its time to answer all the same.
    since: Instant,
    /// Pings that became due in it.
    asked: u8,
    /// The side has answered a ping before, or must.
    answers: bool,
    /// The side answers no pings and gets no more.
    deaf: bool,
    /// When it last took bytes.
    took: Instant,
}

impl Silence {
    fn new(since: Instant, answers: bool) -> Self {
        Self { since, asked: 0, answers, deaf: false, took: since }
    }

    fn restart(&mut self, now: Instant) {
        self.since = now;
        self.asked = 0;
    }

    /// Ends the silence if `peer` spoke; a ping that still waits is not needed any more.
    fn hear<S>(&mut self, now: Instant, peer: &mut Peer<S>) -> bool {
        let spoke = std::mem::take(&mut peer.spoke);
        if spoke {
            self.restart(now);
            peer.wanted.take_if(|own| *own == Own::Ping);
        }
        spoke
    }

    /// When the next ping is due, or missed.
    fn due(&self, interval: Duration) -> Option<Instant> {
        (!self.deaf).then(|| self.since + interval)
    }

    /// Asks `peer` if it is time to; true when it has missed too many pings and is lost. `ear` is
    /// the direction that hears it, `mouth` the one that speaks to it.
    fn tick<S>(
        &mut self,
        now: Instant,
        peer: &mut Peer<S>,
        ear: &Direction,
        mouth: &Direction,
    ) -> bool {
        let asking = peer.wanted.is_some() && !mouth.blocked();
        let taking = mouth.blocked() && self.took > self.since;
        let unheard = ear.tracker.lost();
        if !unheard && (ear.blocked() || asking || taking || !mouth.pingable()) {
            // It cannot be heard, was not asked, or has not come to it yet: its silence means
            // nothing. A side that takes no bytes is another matter.
            self.restart(now);
        } else if !unheard && self.asked < PINGS {
            self.asked += 1;
            self.since = now;
            peer.wanted = Some(Own::Ping);
        } else if !unheard && self.answers {
            return true;
        } else {
            // An answer may still come, after hours: it is no business of the other side.
            self.deaf = true;
            peer.wanted = None;
        }
        false
    }
}

/// An end that we make.
struct Closing {
    end: End,
    /// When waiting is over.
    by: Instant,
    /// The client was told, as far as it could be.
    told: bool,
}

struct Relay<C, P> {
    client: Peer<C>,
    pod: Peer<P>,
    /// From the client to the pod.
    up: Direction,
    /// From the pod to the client.
    down: Direction,
    client_silence: Silence,
    pod_silence: Silence,
    limits: Limits,
    tunnel: Tunnel,
    /// When something was last received.
    last: Instant,
    /// Which side ended first: the pod, if it was given up.
    first: Option<End>,
    /// Which side sent a Close frame first. The pod, a server, is then the first to end either way
    /// (RFC 6455 §7.1.1).
    goodbye: Option<End>,
    closing: Option<Closing>,
}

impl<C, P> Relay<C, P>
where
    C: AsyncRead + AsyncWrite + Unpin,
    P: AsyncRead + AsyncWrite + Unpin,
{
    fn new(client: C, pod: P, early: Early, tunnel: Tunnel, limits: Limits) -> Self {
        let now = Instant::now();
        let up = Direction::new(Side::Client, early.to_pod);
        let mut client = Peer::new(client, Side::Server);
        client.data = up.tracker.data() > 0;
        Self {
            client,
            pod: Peer::new(pod, Side::Client),
            up,
            down: Direction::new(Side::Server, early.to_client),
            client_silence: Silence::new(now, true),
            pod_silence: Silence::new(now, false),
            limits: Limits {
                idle: limits.idle.min(FOREVER),
                ping: limits.ping.map(|interval| interval.clamp(RARELY, FOREVER)),
            },
            tunnel,
            last: now,
            first: None,
            goodbye: None,
            closing: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<End> {
        let asked = self.tunnel.poll_asked(cx.waker());
        if let (Some(end), None) = (asked, &self.closing) {
            self.close(end, Instant::now());
        }
        let end = loop {
            if let Poll::Ready(end) = self.poll_flow(cx) {
                break end;
            }
            // Activity moves times only later. The timer learns of that when it fires.
            let next = self.next();
            if next < timer.deadline() {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(end) = self.tick(Instant::now()) {
                break end;
            }
            timer.as_mut().reset(self.next());
        };
        if self.closing.is_some() {
            // One try each: whoever does not take it now has had its time.
            let _: Poll<_> = Pin::new(&mut self.client.stream).poll_shutdown(cx);
            let _: Poll<_> = Pin::new(&mut self.pod.stream).poll_shutdown(cx);
        }
        Poll::Ready(end)
    }

    /// Moves what can be moved; ready when that ends the tunnel.
    fn poll_flow(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let mut buffer = SHARED.take();
        buffer.resize(BUFFER, 0);
        let (went_up, went_down) = (self.up.moved, self.down.moved);
        let up = self.up.poll(cx, &mut self.client, &mut self.pod, &mut buffer);
        let down = self.down.poll(cx, &mut self.pod, &mut self.client, &mut buffer);
        SHARED.set(buffer);
        self.note(went_up, went_down);
        let up_is_over = up.is_ready();
        let broken = match (up, down) {
            (Poll::Ready(Err(broken)), _) => Some((broken, broken == Broken::Reader)),
            (_, Poll::Ready(Err(broken))) => Some((broken, broken == Broken::Writer)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => {
                let end = self.closing.as_ref().map(|closing| closing.end);
                return Poll::Ready(
                    end.or(self.goodbye).or(self.first).unwrap_or(End::ClientClose),
                );
            }
            (Poll::Ready(Ok(())) | Poll::Pending, Poll::Ready(Ok(())) | Poll::Pending) => None,
        };
        match (broken, &self.closing) {
            (None, None) if self.up.muted() => self.poll_last_words(down.is_ready()),
            (Some((Broken::Writer, false)), None) => {
                // The pod hears nothing any more, but what it said before may not have been read yet,
                // or not have been taken by the client, which has as long as after an end.
                self.up.give_up(Broken::Writer);
                self.first.get_or_insert(End::PodLost);
                self.last = Instant::now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Some((Broken::Reader, false)), None) => {
                // The client was given all that it said before, and has time to receive it.
                self.up.give_up(Broken::Writer);
                self.down.give_up(Broken::Reader);
                self.first.get_or_insert(End::PodLost);
                self.last = Instant::now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Some((Broken::Writer, true)), None) if !up_is_over => {
                // It takes nothing any more, but what it said before may not have been read yet, or not have
                // been taken by the pod.
                self.down.give_up(Broken::Writer);
                self.first.get_or_insert(End::ClientLost);
                self.last = Instant::now();
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (Some((_, true)), None) => Poll::Ready(self.goodbye.unwrap_or(End::ClientLost)),
            (Some((_, true)), Some(closing)) => Poll::Ready(closing.end),
            (Some((broken, false)), Some(_)) => {
                // The pod is gone, which may be why the client is to be told something.
                match broken {
                    Broken::Writer => self.up.give_up(broken),
                    Broken::Reader => self.down.give_up(broken),
                }
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            (None, _) => self.poll_closing(),
        }
    }

    /// Whether the client may still be receiving what was said to it last.
    fn is_unheard(&self) -> bool {
        let told = self.closing.as_ref().is_some_and(|closing| closing.told);
        (told || self.up.muted()) && !self.up.ended
    }

    /// Ready when a pod that hears nothing has no more to say, and the client has taken it all.
    fn poll_last_words(&self, all: bool) -> Poll<End> {
        if all { Poll::Ready(self.goodbye.unwrap_or(End::PodLost)) } else { Poll::Pending }
    }

    /// Notes what was received and delivered; `up` and `down` are the bytes delivered until then.
    fn note(&mut self, up: u64, down: u64) {
        let (up, down) = (self.up.moved != up, self.down.moved != down);
        let moved = up || down;
        let ended = self.up.ended || self.down.ended;
        let news = self.client.spoke || self.client.data || self.pod.spoke || moved || ended;
        if !news {
            return;
        }
        let now = Instant::now();
        for (took, silence) in [(down, &mut self.client_silence), (up, &mut self.pod_silence)] {
            if took {
                silence.took = now;
            }
        }
        let client = self.client_silence.hear(now, &mut self.client);
        let pod = self.pod_silence.hear(now, &mut self.pod);
        let (up, down) = (self.up.tracker.closed(), self.down.tracker.closed());
        if self.goodbye.is_none() && (up || down) {
            self.goodbye = Some(if up { End::ClientClose } else { End::PodClose });
        }
        // What is said to a side that was given up is dropped, and holds nothing open.
        let (client, pod) = (client && !self.up.muted(), pod && !self.down.muted());
        if client || pod || (ended || self.first.is_some()) && moved {
            self.last = now;
        }
        if std::mem::take(&mut self.client.data) {
            self.tunnel.input(now);
        }
        if let Some(sent) = self.client.answered.take() {
            self.tunnel.answered(now - sent);
        }
        self.pod_silence.answers |= self.pod.answered.take().is_some();
        if ended && self.first.is_none() {
            self.first = Some(if self.up.ended { End::ClientClose } else { End::PodClose });
            self.last = now;
        }
        let [to_pod, to_client] = self.flows();
        self.tunnel.carried(to_pod, to_client);
    }

    /// What went up and down.
    fn flows(&self) -> [Flow; 2] {
        [&self.up, &self.down].map(|direction| Flow {
            bytes: direction.moved,
            frames: direction.tracker.data() + direction.tracker.control(),
        })
    }

    /// Begins an end of our own.
    fn close(&mut self, end: End, now: Instant) {
        self.tunnel.ending(end);
        let going_away = 1001;
        let code = end.close_code().unwrap_or(going_away);
        self.client.wanted = Some(Own::Close(code, end));
        self.pod.wanted = Some(Own::Close(going_away, end));
        self.closing = Some(Closing { end, by: now + CLOSING, told: false });
    }

    /// Ready when an end of our own is complete.
    fn poll_closing(&mut self) -> Poll<End> {
        let Some(closing) = &mut self.closing else { return Poll::Pending };
        if self.down.tracker.lost() {
            return Poll::Ready(closing.end);
        }
        if !closing.told && self.down.said(&self.client) {
            closing.told = true;
            closing.by = Instant::now() + CLOSING;
        }
        let tracker = &self.up.tracker;
        let answered = self.up.ended || tracker.closed() && tracker.boundary();
        if closing.told && answered && self.up.said(&self.pod) {
            return Poll::Ready(closing.end);
        }
        Poll::Pending
    }

    /// How long nothing may be received now.
    fn patience(&self) -> Duration {
        if self.first.is_some() { HALF_CLOSED.min(self.limits.idle) } else { self.limits.idle }
    }

    /// When a side's silence has to be looked at. A side that has ended says nothing more, and one
    /// whose peer has ended will soon follow: neither is asked.
    fn next_ping(&self, silence: &Silence) -> Option<Instant> {
        self.limits.ping.filter(|_| self.first.is_none()).and_then(|ping| silence.due(ping))
    }

    /// When the timer is needed next.
    fn next(&self) -> Instant {
        if let Some(closing) = &self.closing {
            return closing.by;
        }
        let pings = [self.next_ping(&self.client_silence), self.next_ping(&self.pod_silence)];
        let others = pings.into_iter().flatten().chain(self.tunnel.deadline());
        others.fold(self.last + self.patience(), Instant::min)
    }

    /// Does what is due; returns the tunnel's end if this is it.
    fn tick(&mut self, now: Instant) -> Option<End> {
        if let Some(closing) = &self.closing {
            return (now >= closing.by).then_some(closing.end);
        }
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.tunnel.deadline()) {
            self.close(End::TokenExpired, now);
            return None;
        }
        if due(Some(self.last + self.patience())) {
            let end = if self.first.is_some() { End::HalfClosed } else { End::Idle };
            // A client that was given up is the reason; the pod only took its time.
            return Some(if self.down.muted() {
                self.goodbye.unwrap_or(End::ClientLost)
            } else {
                end
            });
        }
        let (client, pod) =
            (due(self.next_ping(&self.client_silence)), due(self.next_ping(&self.pod_silence)));
        if client && self.client_silence.tick(now, &mut self.client, &self.up, &self.down) {
            return Some(End::ClientLost);
        }
        if pod && self.pod_silence.tick(now, &mut self.pod, &self.down, &self.up) {
            return Some(End::PodLost);
        }
        None
    }
}

#[cfg(test)]
mod tests;
