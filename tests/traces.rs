use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::support::{Origin, SOON, Site, echo, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A collector, and the messages that it got.
fn collector() -> (Origin, Arc<Mutex<Vec<ExportTraceServiceRequest>>>) {
    let got = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&got);
    let origin = Origin::start(move |exchange| {
        assert!(exchange.head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{}", exchange.head);
        assert_eq!(exchange.header("content-type").as_deref(), Some("application/x-protobuf"));
        let body = exchange.body().unwrap();
        kept.lock().unwrap().push(ExportTraceServiceRequest::decode(&*body).unwrap());
        exchange.answer("200 OK", "Content-Type: application/x-protobuf\r\n", "");
    });
    (origin, got)
}

fn spans(got: &Mutex<Vec<ExportTraceServiceRequest>>) -> Vec<Span> {
    let got = got.lock().unwrap();
    let scopes = got.iter().flat_map(|message| &message.resource_spans);
    scopes.flat_map(|of| &of.scope_spans).flat_map(|of| &of.spans).cloned().collect()
}

fn span(got: &Mutex<Vec<ExportTraceServiceRequest>>, path: &str) -> Span {
    eventually("the span", || {
        spans(got).into_iter().find(|span| attribute(span, "url.path").as_deref() == Some(path))
    })
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|of| of.key == name)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tracing(at: SocketAddr, ratio: &str) -> String {
    format!("[tracing]\nendpoint = \"http://{at}/v1/traces\"\nratio = {ratio}\n")
}

fn traced(ratio: &str) -> (Site, Arc<Mutex<Vec<ExportTraceServiceRequest>>>, Origin) {
    let (origin, got) = collector();
    let text = format!(
        "{}[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n",
        tracing(origin.address(), ratio)
    );
    let site = Site::configured_serving(&text, |exchange| match exchange.header("upgrade") {
        Some(_) => echo(exchange),
        None => exchange.answer("200 OK", "", "hello"),
    });
    (site, got, origin)
}

#[test]
fn a_request_is_a_span_whose_context_the_upstream_has() {
    let (site, got, _origin) = traced("1.0");
    let answer = site.get("/API/traced?secret=1", "User-Agent: test/1\r\n");
    let sent = site.pyos.last().header("traceparent").unwrap();
    let span = span(&got, "/API/traced");
    assert_eq!(sent, format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id)));
    assert_eq!((span.name.as_str(), hex(&span.parent_span_id).trim_matches('0')), ("GET pyos", ""));
    for (name, value) in [
        ("http.request.method", "GET".to_owned()),
        ("http.route", "pyos".to_owned()),
        ("http.response.status_code", "200".to_owned()),
        ("http.response.body.size", "5".to_owned()),
        ("server.address", "desk.example".to_owned()),
        ("client.address", "127.0.0.1".to_owned()),
        ("user_agent.original", "test/1".to_owned()),
        ("deskgate.request_id", answer.header("x-request-id").unwrap()),
    ] {
        assert_eq!(attribute(&span, name), Some(value), "{name}");
    }
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(site.gateway.logged("/API/traced")["trace_id"], hex(&span.trace_id));
    let resource = got.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    let service = resource.attributes.iter().find(|of| of.key == "service.name").unwrap();
    assert!(format!("{service:?}").contains("deskgate"));
}

#[test]
fn a_callers_trace_goes_on_and_its_choice_counts() {
    let (site, got, _origin) = traced("0.0");
    let with = |flags: &str| format!("traceparent: 00-{TRACE}-{CALLER}-{flags}\r\n");
    site.get("/API/chosen", &with("01"));
    let span = span(&got, "/API/chosen");
    assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, CALLER));
    let sent = site.pyos.last().header("traceparent").unwrap();
    assert_eq!(sent, format!("00-{TRACE}-{}-01", hex(&span.span_id)));
    // What is not recorded keeps its trace, and says so.
    site.get("/API/other", &with("00"));
    let sent = site.pyos.last().header("traceparent").unwrap();
    assert!(sent.starts_with(&format!("00-{TRACE}-")) && sent.ends_with("-00"), "{sent}");
    site.get("/API/none", "");
    assert!(site.pyos.last().header("traceparent").unwrap().ends_with("-00"));
    site.get("/API/last", &with("01"));
    self::span(&got, "/API/last");
    let told: Vec<_> = spans(&got).iter().filter_map(|span| attribute(span, "url.path")).collect();
    assert_eq!(told, ["/API/chosen", "/API/last"]);
}

#[test]
fn tunnels_and_failures_are_spans_and_hold_no_token() {
    let (site, got, _origin) = traced("1.0");
    let mut socket = site.websocket(&Site::screen());
    socket.send("hello".into()).unwrap();
    socket.read().unwrap();
    socket.close(None).unwrap();
    while socket.read().is_ok() {}
    drop(socket);
    let tunnel = span(&got, "/websockify");
    assert_eq!(attribute(&tunnel, "http.response.status_code").as_deref(), Some("101"));
    site.get(&Site::screen().replace("/websockify", "/broadcast/x"), "");
    site.get("/filer/refused", "ABCAuthorization: a.b.c\r\n");
    let refused = span(&got, "/filer/refused");
    assert_eq!(attribute(&refused, "error.type").as_deref(), Some("malformed"));
    assert_eq!(attribute(&refused, "http.response.status_code").as_deref(), Some("401"));
    span(&got, "/broadcast/x");
    let text = format!("{:?}", spans(&got));
    assert!(!text.contains("eyJ") && !text.contains("127.0.0.2"), "{text}");
}

#[test]
fn the_last_spans_are_sent_at_the_end() {
    // Half a second is what a collector has to take them: one of a few is quick enough.
    assert!((0..3).any(|_| the_last_span_came()));
}

/// Whether a gateway that ends has told of its last request.
fn the_last_span_came() -> bool {
    let (mut site, got, _origin) = traced("1.0");
    site.get("/API/last", "");
    site.gateway.signal("TERM");
    site.gateway.wait(SOON);
    // Nothing more is sent; what was may still have to be read.
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let is_last = |span: &Span| attribute(span, "url.path").as_deref() == Some("/API/last");
        if spans(&got).iter().any(is_last) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_collector_that_is_not_there_harms_nobody() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], crate::support::free_port()));
    let site = Site::configured(&tracing(nobody, "1.0"));
    for _ in 0..50 {
        assert_eq!(site.get("/API/x", "").status, 200);
    }
}
