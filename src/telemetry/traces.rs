//! Spans of requests for a collector of traces (OpenTelemetry): one per request, written with its access
//! log line, queued within a bound and sent by a thread of its own.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use http::Uri;
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor,
};

use super::METHODS;
use super::access_log::Record;
use super::privacy;
use super::trace_context::TraceContext;
use crate::config::Tracing;

/// How often spans are sent, and most of them in one message.
const EVERY: Duration = Duration::from_secs(2);
const BATCH: usize = 512;

/// Longest wait for the last spans when the process ends.
const LAST: Duration = Duration::from_millis(500);

/// Bits of a trace's id that are random in every implementation (Trace Context level 2, section 2.2.4).
const RANDOM: u32 = 56;

/// Where a request of ours stands in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// What the upstream is told: the caller's words, or our own span.
    pub context: TraceContext,
    /// The caller's span, if our own is recorded.
    parent: Option<u64>,
    /// Whether our own span is recorded.
    records: bool,
}

/// What sends spans.
struct Traces {
    processor: BatchSpanProcessor,
    ratio: f64,
    scope: InstrumentationScope,
}

static TRACES: OnceLock<Traces> = OnceLock::new();

/// Sends what is still queued when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct LastSpans(());

impl Drop for LastSpans {
    fn drop(&mut self) {
        if let Some(traces) = TRACES.get() {
            // A collector that does not take them loses them.
            drop(traces.processor.shutdown_with_timeout(LAST));
        }
    }
}

/// The key by which no collector can be reached, and why. [`Tracing::fault`] has been asked before.
#[must_use]
pub fn fault(config: &Tracing) -> Option<(&'static str, String)> {
    if config.endpoint.is_empty() {
        return None;
    }
    let told = |why: &str| Some(("tracing.endpoint", why.to_owned()));
    let address = match config.endpoint.parse::<Uri>() {
        Ok(address) => address,
        Err(error) => return told(&error.to_string()),
    };
    let Some(authority) = address.authority() else { return told("names no host") };
    // A number that is no port is none to the parser, and 80 would be asked.
    let port = authority.as_str().get(authority.host().len()..).unwrap_or_default();
    match authority.port_u16() {
        Some(1..) => None,
        None if port.is_empty() => None,
        Some(0) | None => told("names no port from 1 to 65535"),
    }
}

/// Starts to trace, if there is a collector. A second start in one process keeps the first.
///
/// # Errors
/// If the address of the collector is none.
pub fn start(
    config: &Tracing,
    node: &str,
    client: impl HttpClient + 'static,
) -> Result<LastSpans, String> {
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_endpoint(&config.endpoint)
        .with_timeout(config.timeout)
        .build()
        .map_err(|error| error.to_string())?;
    let batch = BatchConfigBuilder::default()
        .with_max_queue_size(config.queue)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(EVERY);
    let mut processor =
        BatchSpanProcessor::builder(exporter).with_batch_config(batch.build()).build();
    let resource = Resource::builder_empty()
        .with_service_name("deskgate")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("k8s.node.name", node.to_owned()));
    processor.set_resource(&resource.build());
    let scope = InstrumentationScope::builder("deskgate").build();
    drop(TRACES.set(Traces { processor, ratio: config.ratio, scope }));
    Ok(LastSpans(()))
}

/// The place of a request that came with this context of a trusted caller, or none. Without a collector
/// the caller's words are passed on; with one, every request has its place, and the caller or chance
/// decides whether it is recorded. `number` gives random numbers.
pub fn place(given: Option<TraceContext>, mut number: impl FnMut() -> u64) -> Option<Place> {
    let Some(traces) = TRACES.get() else {
        return given.map(|context| Place { context, parent: None, records: false });
    };
    let trace = given.map_or_else(|| join(number() | 1, number()), |given| given.trace);
    let sampled = given.map_or_else(|| is_chosen(trace, traces.ratio), |given| given.sampled);
    let context = TraceContext { trace, span: number().max(1), sampled };
    Some(Place { context, parent: given.map(|given| given.span), records: sampled })
}

fn join(high: u64, low: u64) -> u128 {
    (u128::from(high) << 64) | u128::from(low)
}

/// Whether a trace is among those that are recorded: the same everywhere, for a ratio.
fn is_chosen(trace: u128, ratio: f64) -> bool {
    let random = trace & ((1 << RANDOM) - 1);
    (random as f64) < ratio * (1_u64 << RANDOM) as f64
}

/// Queues the span of a request that ends now.
pub(super) fn record(record: &Record, duration: Duration) {
    let (Some(traces), Some(place)) = (TRACES.get(), record.trace.filter(|place| place.records))
    else {
        return;
    };
    #[expect(clippy::disallowed_methods, reason = "the time of the span, not of a decision")]
    let end = SystemTime::now();
    let start = end.checked_sub(duration).unwrap_or(end);
    let TraceContext { trace, span, .. } = place.context;
    let known = METHODS.into_iter().find(|known| *known == record.method);
    let context = SpanContext::new(
        TraceId::from(trace),
        SpanId::from(span),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    let failed = record.status >= 500;
    traces.processor.on_end(SpanData {
        span_context: context,
        parent_span_id: place.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: place.parent.is_some(),
        span_kind: SpanKind::Server,
        name: format!("{} {}", known.unwrap_or("HTTP"), record.route()).into(),
        start_time: start,
        end_time: end,
        attributes: attributes(record),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if failed { Status::error(record.reason) } else { Status::Unset },
        instrumentation_scope: traces.scope.clone(),
    });
}

/// What the access log says, in the words of OpenTelemetry's conventions for HTTP servers where they
/// have one.
fn attributes(record: &Record) -> Vec<KeyValue> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let path = record.target.split('?').next().unwrap_or_default();
    let client = record.client.map(privacy::told).unwrap_or_default();
    let mut found = vec![
        KeyValue::new("http.request.method", record.method.to_string()),
        KeyValue::new("http.route", record.route().to_owned()),
        KeyValue::new("http.response.status_code", i64::from(record.status)),
        KeyValue::new("http.request.body.size", number(record.received)),
        KeyValue::new("http.response.body.size", number(record.sent)),
        KeyValue::new("network.protocol.version", record.version.trim_start_matches("HTTP/")),
        KeyValue::new("url.path", path.to_owned()),
        KeyValue::new("server.address", record.host.to_string()),
        KeyValue::new("client.address", client),
        KeyValue::new("user_agent.original", record.user_agent.to_string()),
        KeyValue::new("deskgate.request_id", record.id.to_string()),
    ];
    if let Some(token) = record.token {
        found.push(KeyValue::new("deskgate.token", token.to_string()));
    }
    if !record.reason.is_empty() {
        found.push(KeyValue::new("error.type", record.reason));
    }
    found
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traces").field("ratio", &self.ratio).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_ratio_chooses_its_part_of_the_traces() {
        let mut numbers = (1_u64..).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let traces: Vec<_> =
            (0..10_000).map(|_| join(numbers.next().unwrap(), numbers.next().unwrap())).collect();
        let chosen = |ratio: f64| traces.iter().filter(|trace| is_chosen(**trace, ratio)).count();
        assert_eq!((chosen(0.0), chosen(1.0)), (0, 10_000));
        assert!((900..1100).contains(&chosen(0.1)), "{}", chosen(0.1));
    }

    #[test]
    fn an_address_that_is_none_is_a_fault_of_its_key() {
        let key = |endpoint: &str| {
            let text = format!("[tracing]\nendpoint = {endpoint:?}\n");
            let tracing = Config::from_text("traces.toml", &text).unwrap().config.tracing;
            assert_eq!(tracing.fault(), None, "{endpoint}");
            fault(&tracing).map(|(key, _)| key)
        };
        for fine in
            ["", "http://collector/", "http://collector:4318/v1/traces", "http://[::1]:4318/v1"]
        {
            assert_eq!(key(fine), None, "{fine}");
        }
        for wrong in [
            "http://a collector/v1/traces",
            "http://collector:99999/v1/traces",
            "http://collector:0/v1/traces",
            "http://collector:/v1/traces",
            "http://[::1/v1/traces",
            "http://collector/v1 traces",
        ] {
            assert_eq!(key(wrong), Some("tracing.endpoint"), "{wrong}");
        }
    }

    #[test]
    fn without_a_collector_only_what_a_caller_said_is_passed_on() {
        let given = TraceContext { trace: 1, span: 2, sampled: true };
        assert_eq!(place(None, || 7), None);
        let place = place(Some(given), || 7).unwrap();
        assert_eq!((place.context, place.records), (given, false));
    }
}
