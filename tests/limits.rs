//! What is taken on, and how the rest is refused.

/// Connections: in all, per listener, per address.
mod connections;
/// Clients by the thousand that mean no good.
mod floods;
/// Which pages may open tunnels.
mod origins;
/// Memory and descriptors that run out.
mod overload;
/// Clients that drip, or take nothing.
mod patience;
/// Requests, tunnels and refused tokens: how many and how fast.
mod rates;

use std::net::SocketAddr;

use crate::support::{Exchange, Response, Site, echo, eventually, free_port, raw};

/// A site with an operators' interface; its services echo upgrades.
struct Watched {
    site: Site,
    admin: SocketAddr,
}

impl Watched {
    fn start(toml: &str) -> Self {
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let toml = format!("[admin]\nlisten = [\"{admin}\"]\n{toml}");
        let site = Site::configured_serving(&toml, answer_or_echo);
        site.gateway.wait_for_line("admin interface listening");
        Self { site, admin }
    }

    /// A line of the metrics that begins with `name`, as a number.
    fn metric(&self, name: &str) -> Option<f64> {
        let head = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
        let text = raw(self.admin, head).unwrap().text();
        let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        rest.parse().ok()
    }

    fn refused(&self, limit: &str) -> f64 {
        self.metric(&format!("deskgate_refused_total{{limit=\"{limit}\"}}")).unwrap()
    }

    /// Waits until the metric has this value.
    fn until(&self, name: &str, value: f64) {
        eventually(&format!("{name} {value}"), || (self.metric(name) == Some(value)).then_some(()));
    }
}

fn answer_or_echo(exchange: &mut Exchange) {
    if exchange.header("upgrade").is_some() {
        echo(exchange);
    } else if exchange.body().is_ok() {
        exchange.answer("200 OK", "", "served");
    }
}

/// Status, error word, and seconds to wait.
fn refusal(answer: &Response) -> (u16, String, u32) {
    let after = answer.header("retry-after").and_then(|after| after.parse().ok());
    (answer.status, answer.error(), after.unwrap_or(0))
}
