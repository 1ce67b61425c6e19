//! The gateway: one request from its head to its end, a few lines per step, each calling a room.
//!
//! [`Gateway::serve`] → `answer` → `plan` (route, token, target) → `exchange::ask`, then either
//! `exchange::Answer::pass_back` or [`tunnel::start`]. Every error ends in `fail`, which asks
//! [`crate::respond`]; there is no other way to answer with an error.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use pingora::http::RequestHeader;
use pingora::{Error as PingoraError, Result};
use tokio::time::timeout;

use crate::admission::pressure::Level;
use crate::auth::revoked::Revoked;
use crate::config::{Lifetime, Listen};
use crate::error::Error;
use crate::http1::{Waits, within};
use crate::respond;
use crate::route::Destination;
use crate::session::{Session, Stamp};
use crate::telemetry::access_log::InFlight;
use crate::transport::Transport;
use crate::tunnel::ends::End;
use crate::tunnel::registry::{Info, Registry};
use crate::tunnel::{self, Opening};
use crate::upstream::desktops::Desktops;
use crate::upstream::pool::Pool;

mod client;
pub(crate) mod clock;
mod cold;
mod compression;
mod context;
mod exchange;
mod headers;
mod location;
mod page;
mod record;
pub(crate) mod redirect;
mod renew;
mod rooms;
#[doc(hidden)]
pub mod seam;
mod static_files;
mod tarpit;
pub(crate) mod trail;

pub use cold::Cold;
pub use rooms::{Marks, Rooms};

use client::Client;
use context::{Context, Plan, Way};
use exchange::Answer;

/// Longest wait for the end of a connection to be written.
const CUT: Duration = Duration::from_secs(1);

/// The gateway: the rooms of now, and what outlives them. Clones share everything.
#[derive(Clone, Debug)]
pub struct Gateway {
    rooms: Arc<ArcSwap<Rooms>>,
    /// Requests and tunnels under way.
    pub in_flight: InFlight,
    /// Where desktops are found.
    pub desktops: Desktops,
    /// The open tunnels.
    pub tunnels: Registry,
    /// Tokens that operators have withdrawn.
    pub revoked: Revoked,
}

impl Gateway {
    /// A gateway with these rooms.
    #[must_use]
    pub fn new(
        rooms: Rooms,
        desktops: Desktops,
        tunnels: Registry,
        revoked: Revoked,
        in_flight: InFlight,
    ) -> Self {
        Self {
            rooms: Arc::new(ArcSwap::from_pointee(rooms)),
            in_flight,
            desktops,
            tunnels,
            revoked,
        }
    }

    /// Takes new rooms into use.
    pub fn swap(&self, rooms: Rooms) {
        self.rooms.store(Arc::new(rooms));
    }

    /// The rooms of now. A request keeps those that it began with.
    #[must_use]
    pub fn rooms(&self) -> Arc<Rooms> {
        self.rooms.load_full()
    }
}

/// A request whose pod has agreed to a tunnel.
struct Upgrade {
    plan: Plan,
    answer: Answer,
}

impl Gateway {
    /// Serves one request. Returns the connection if another request may follow on it.
    pub async fn serve(
        &self,
        mut session: Session,
        pool: &Pool,
    ) -> Option<(Box<Transport>, BytesMut)> {
        let (rooms, now) = (self.rooms(), clock::now());
        self.prepare(&mut session, &rooms);
        let client = Client::new(&session, &rooms.listen.trusted_proxies);
        let trail = trail::settle(session.request(), client.trusted);
        let record = record::open(&session, client.address, &trail, self.in_flight.enter(), now);
        session.bear(Stamp { id: Arc::clone(&trail.id), hsts: client.hsts(&rooms.listen) });
        let mut ctx = Context { record: Some(record), route: None };
        let (desktops, revoked) = (&self.desktops, &self.revoked);
        let way = Way { rooms: &rooms, desktops, revoked, pool, now, trail: &trail };
        match self.answer(&mut session, client, &mut ctx, &way).await {
            Ok(None) => {}
            Ok(Some(upgrade)) => {
                // The record goes along; a client that has gone needs no answer. Boxed, as what is
                // rare or long: each request moves the memory of its future.
                drop(Box::pin(self.open_tunnel(session, upgrade, &mut ctx, &rooms)).await);
                return None;
            }
            Err(error) => session = Box::pin(self.fail(session, &error, &mut ctx)).await?,
        }
        if let Some(record) = &mut ctx.record {
            record::close(record, &session);
        }
        // What is buffered leaves now, within the time that a client has to take something.
        match within(rooms.listen.write_timeout, session.finish()).await {
            Ok(Ok(next)) => next,
            Ok(Err(_)) | Err(_) => {
                record::note(&mut ctx, "client_gone");
                None
            }
        }
    }

    /// Sets how long the client may take, and whether its connection is kept.
    fn prepare(&self, session: &mut Session, rooms: &Rooms) {
        let listen = &rooms.listen;
        if listen.keepalive.is_zero()
            || rooms.admission.pressure() >= Level::NoKeepalive
            || self.in_flight.is_leaving()
        {
            session.close_after();
        }
        session.limit(Waits { read: listen.read_timeout, write: listen.write_timeout });
    }

    /// Answers a request, or returns the pod's answer with which a tunnel begins.
    async fn answer(
        &self,
        session: &mut Session,
        client: Client,
        ctx: &mut Context,
        way: &Way<'_>,
    ) -> Result<Option<Upgrade>> {
        if session.is_http2() {
            judge_http2(session.request(), &way.rooms.listen)?;
        }
        if let Some(to) = redirect::to_https(way.rooms, session.request(), &client) {
            record::note_route(ctx, to.route);
            respond::write_redirect(session, &to.address).await?;
            return Ok(None);
        }
        let plan = way.rooms.plan(session.request(), client, ctx, way.now).await?;
        match &plan.route.backend {
            Destination::Text(text) => respond::write_text(session, text).await?,
            Destination::Files(_) => {
                static_files::serve(session, &plan, &way.rooms.roots).await?;
            }
            Destination::Renew => {
                let found = way.rooms.find(&plan, way).await?;
                Box::pin(renew::serve(session, &plan, &found.label, &self.tunnels)).await?;
            }
            Destination::Desktop(_) | Destination::DesktopPorts(_) | Destination::Upstream(_) => {
                if plan.upgrade && self.in_flight.is_draining() {
                    return Err(Error::Draining.into());
                }
                if plan.upgrade {
                    way.rooms.may_open(session.request(), &plan)?;
                }
                if plan.upgrade {
                    // What the client sent after its request is nobody's HTTP.
                    session.close_after();
                }
                let answer = exchange::ask(session, &plan, way).await?;
                if answer.head()?.status == http::StatusCode::SWITCHING_PROTOCOLS {
                    return Ok(Some(Upgrade { plan, answer }));
                }
                answer.pass_back(session, &plan, way).await?;
            }
        }
        Ok(None)
    }

    /// Hands the client's and the pod's streams to the relay.
    async fn open_tunnel(
        &self,
        session: Session,
        upgrade: Upgrade,
        ctx: &mut Context,
        rooms: &Rooms,
    ) -> Result<()> {
        let Upgrade { plan, answer } = upgrade;
        let mut head = answer.head()?.clone();
        headers::to_client(&mut head, &plan.answer());
        session.stamp(&mut head);
        let Some(mut record) = ctx.record.take() else { return Ok(()) };
        record.status = 101;
        record.count_token();
        let settings = &plan.route.row.tunnel;
        let desktop = plan.desktop.as_deref();
        let found = &answer.found;
        let info = Info {
            route: Arc::clone(&plan.route.name),
            token: record.token.map(|token| token.to_string().into()),
            pod: Arc::clone(&found.label),
            uid: found.uid.clone(),
            client: plan.client.address,
            deadline: desktop
                .filter(|_| settings.lifetime == Lifetime::Token)
                .map(|desktop| renew::expiry(desktop) + settings.grace),
            grace: settings.grace,
        };
        let opening = Opening {
            info,
            registry: &self.tunnels,
            timeouts: &plan.route.row.timeouts,
            ping: settings.ping,
            sockets: rooms.sockets,
            seat: answer.seat,
            record,
        };
        let id = tunnel::start(session, *answer.upstream.http, &head, opening).await?;
        // The pod may have gone before its tunnel was listed.
        if !self.desktops.holds(&answer.found) {
            let _told = self.tunnels.close(id, End::DesktopGone);
        }
        // So may an operator have withdrawn its token.
        if desktop.is_some_and(|desktop| self.revoked.holds(desktop, &found.label)) {
            let _told = self.tunnels.close(id, End::Revoked);
        }
        // The drain may have looked before it, too.
        if self.in_flight.is_draining() {
            let _told = self.tunnels.close(id, End::Drain);
        }
        Ok(())
    }

    /// Answers a request that failed, if anybody is left to answer. Returns the session unless its
    /// connection must end as it is.
    async fn fail(
        &self,
        mut session: Session,
        error: &PingoraError,
        ctx: &mut Context,
    ) -> Option<Session> {
        let Some(problem) = respond::classify(error) else {
            record::note(ctx, "client_gone");
            self.cut(&mut session, ctx).await;
            return None;
        };
        record::note(ctx, problem.reason);
        if ctx.explains(&session) {
            let (code, text) = respond::close_of(&problem);
            let id = ctx.record.as_ref().map_or_else(trail::fresh, |record| Arc::clone(&record.id));
            if Box::pin(tunnel::accept_and_close(session, &id, code, &text)).await.is_ok() {
                record::note_status(ctx, 101);
            }
            return None;
        }
        match respond::write(&mut session, &problem).await {
            Ok(true) => Some(session),
            Ok(false) => {
                // What was written may be a whole answer, with more of the request on its way.
                if self.cut(&mut session, ctx).await {
                    session.linger();
                }
                None
            }
            Err(_) => {
                self.cut(&mut session, ctx).await;
                None
            }
        }
    }

    /// Ends a connection in the middle of a response, visibly: no last chunk is written. False if not even
    /// the end could be written.
    async fn cut(&self, session: &mut Session, ctx: &mut Context) -> bool {
        if let Some(record) = &mut ctx.record {
            record::close(record, session);
        }
        timeout(CUT, session.shutdown()).await.is_ok()
    }
}

/// The limits of a head that `server::connection` holds for HTTP/1.
fn judge_http2(head: &RequestHeader, listen: &Listen) -> Result<(), Error> {
    let line = usize::try_from(listen.max_line.as_u64()).unwrap_or(usize::MAX);
    if head.raw_path().len() > line {
        return Err(Error::TargetTooLong);
    }
    let lines = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if head.headers.len() > listen.max_headers || lines.max().is_some_and(|longest| longest > line)
    {
        return Err(Error::HeadTooLarge);
    }
    Ok(())
}
