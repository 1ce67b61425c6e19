use serde_json::{Value, json};

use super::*;

const LIST: &str = include_str!("../../../tests/fixtures/kubernetes/list.json");
const WATCH: &str = include_str!("../../../tests/fixtures/kubernetes/watch.ndjson");

fn slice(name: &str, kind: &str, endpoints: Value) -> Slice {
    let value = json!({
        "metadata": {"name": name, "resourceVersion": "1"},
        "addressType": kind, "endpoints": endpoints, "ports": null,
    });
    serde_json::from_value(value).unwrap()
}

fn endpoint(uid: &str, addresses: &[&str], conditions: Value) -> Value {
    json!({
        "addresses": addresses, "conditions": conditions,
        "targetRef": {"kind": "Pod", "name": format!("pod-{uid}"), "uid": uid},
    })
}

fn present(changes: &[Change]) -> Vec<&Pod> {
    let pods = changes.iter().map(|change| match change {
        Change::Present(pod) => pod,
        Change::Gone(uid) => panic!("{uid} is gone"),
    });
    pods.collect()
}

fn show(changes: &[Change]) -> Vec<String> {
    let show = |change: &Change| match change {
        Change::Present(pod) => format!("{} {:?} {:?}", pod.name, pod.readiness, pod.addresses),
        Change::Gone(uid) => format!("gone {uid}"),
    };
    changes.iter().map(show).collect()
}

#[test]
fn a_recorded_list_and_watch_tell_the_recorded_story() {
    let page: Page = serde_json::from_str(LIST).unwrap();
    assert_eq!(page.metadata.resource_version, "3597");
    let mut slices = Slices::of(page.items.unwrap()).unwrap();
    let mut names: Vec<_> = slices.pods().iter().map(|pod| pod.name.to_string()).collect();
    names.sort_unstable();
    assert_eq!(names, ["anonymous-abc12", "fry-def34", "notready-x"]);
    assert_eq!(
        slices.pod("67e4b9c3-8b4b-4f7f-a2df-30b04d1d7f84").unwrap().hostname.as_deref(),
        Some("fryhost")
    );

    let mut story = Vec::new();
    for line in WATCH.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        if line.kind != "BOOKMARK" {
            story.extend(show(&slices.put(line.object).unwrap()));
        }
    }
    assert_eq!(
        story,
        [
            "zoe-aaaaa NotReady [10.244.1.90]",
            "zoe-aaaaa Ready [10.244.1.90]",
            "zoe-aaaaa Terminating [10.244.1.90]",
            "yan-bbbbb Ready [10.244.1.90]",
            "gone 29e06647-9b3d-4d0e-a8e4-5f496b55a8f7",
        ]
    );
}

#[test]
fn missing_conditions_mean_ready() {
    let mut slices = Slices::default();
    let cases = [
        (json!(null), Readiness::Ready),
        (json!({}), Readiness::Ready),
        (json!({"ready": null}), Readiness::Ready),
        (json!({"ready": false}), Readiness::NotReady),
        (json!({"ready": false, "serving": true, "terminating": true}), Readiness::Terminating),
        (json!({"ready": true, "terminating": true}), Readiness::Terminating),
    ];
    for (at, (conditions, expected)) in cases.into_iter().enumerate() {
        let uid = at.to_string();
        let changes = slices
            .put(slice(&uid, "IPv4", json!([endpoint(&uid, &["10.0.0.1"], conditions)])))
            .unwrap();
        assert_eq!(present(&changes)[0].readiness, expected, "{at}");
    }
}

#[test]
fn what_is_no_pod_with_an_address_is_left_out() {
    let mut slices = Slices::default();
    let ready = json!({"ready": true});
    let mut service = endpoint("a", &["10.0.0.1"], ready.clone());
    service["targetRef"]["kind"] = json!("Node");
    let mut anonymous = endpoint("b", &["10.0.0.2"], ready.clone());
    anonymous.as_object_mut().unwrap().remove("targetRef");
    let mut no_uid = endpoint("c", &["10.0.0.3"], ready.clone());
    no_uid["targetRef"]["uid"] = json!("");
    let wrong_family = endpoint("d", &["2001:db8::1"], ready.clone());
    let no_address = endpoint("e", &["not an address"], ready.clone());
    let all = json!([service, anonymous, no_uid, wrong_family, no_address]);
    assert_eq!(slices.put(slice("s", "IPv4", all)).unwrap(), []);
    let fqdn = json!([endpoint("f", &["desk.example.org"], ready)]);
    assert_eq!(slices.put(slice("t", "FQDN", fqdn)).unwrap(), []);
    assert_eq!(slices.put(slice("u", "IPv4", json!(null))).unwrap(), []);
    assert!(slices.pods().is_empty());
}

#[test]
fn both_families_and_all_addresses_are_one_pod() {
    let mut slices = Slices::default();
    let ready = json!({"ready": true});
    let six = json!([endpoint("a", &["2001:db8::2", "2001:db8::1"], ready.clone())]);
    slices.put(slice("six", "IPv6", six)).unwrap();
    let four = json!([endpoint("a", &["10.0.0.1"], ready)]);
    let changes = slices.put(slice("four", "IPv4", four)).unwrap();
    assert_eq!(show(&changes), ["pod-a Ready [10.0.0.1, 2001:db8::1, 2001:db8::2]"]);
    assert_eq!(show(&slices.remove("six")), ["pod-a Ready [10.0.0.1]"]);
}

#[test]
fn a_pod_in_two_slices_is_as_bad_as_the_worse_one_says() {
    let mut slices = Slices::default();
    let one = |conditions| json!([endpoint("a", &["10.0.0.1"], conditions)]);
    slices.put(slice("s", "IPv4", one(json!({"ready": true})))).unwrap();
    let changes = slices.put(slice("t", "IPv4", one(json!({"terminating": true})))).unwrap();
    assert_eq!(show(&changes), ["pod-a Terminating [10.0.0.1]"]);
    assert_eq!(slices.remove("s"), [], "still listed, still terminating");
    assert_eq!(show(&slices.remove("t")), ["gone a"]);
    assert!(slices.listed_in.is_empty());
}

#[test]
fn the_same_slice_again_changes_nothing() {
    let mut slices = Slices::default();
    let one = || slice("s", "IPv4", json!([endpoint("a", &["10.0.0.1"], json!({}))]));
    assert_eq!(slices.put(one()).unwrap().len(), 1);
    assert_eq!(slices.put(one()).unwrap(), []);
    assert_eq!(slices.remove("unknown"), []);
}

#[test]
fn there_is_a_limit() {
    let mut slices = Slices::default();
    for at in 0..MAX_SLICES {
        slices.put(slice(&at.to_string(), "IPv4", json!([]))).unwrap();
    }
    assert_eq!(slices.put(slice("one more", "IPv4", json!([]))), Err(TooMany));
    assert_eq!(slices.put(slice("7", "IPv4", json!([]))), Ok(Vec::new()));
}

#[test]
fn a_pod_tells_since_when_it_runs() {
    let told = |status: Value| {
        let made = "1970-01-01T00:00:03Z";
        let metadata = json!({"uid": "u", "name": "p", "creationTimestamp": made});
        let pod = json!({"metadata": metadata, "spec": {}, "status": status});
        serde_json::from_value::<PodObject>(pod).unwrap().told()
    };
    let running = |at: &str| json!({"name": "c", "state": {"running": {"startedAt": at}}});
    let ended =
        json!({"name": "d", "state": {"terminated": {"startedAt": "2026-01-01T00:00:00Z"}}});
    let (early, late) = ("1970-01-01T00:00:05Z", "1970-01-01T00:01:00Z");
    let pod = told(json!({
        "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "nonsense"}],
        "containerStatuses": [running(late), ended, running(early), running("soon")],
    }));
    let addresses: Vec<_> = pod.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(
        (pod.uid.as_str(), addresses),
        ("u", vec!["10.0.0.1".to_owned(), "fd00::1".to_owned()])
    );
    // In the course of that second.
    assert_eq!(pod.since, Some(5_999));
    assert_eq!(told(json!({"containerStatuses": [ended]})).since, None);
    // A node's clock that is behind: it cannot have run before it was made.
    assert_eq!(
        told(json!({"containerStatuses": [running("1970-01-01T00:00:01Z")]})).since,
        Some(3_999)
    );
    let never = json!({"containerStatuses": [{"state": {"running": {"startedAt": null}}}]});
    assert_eq!(told(never).since, None);
    // In its node's network it has the address beside others.
    let host = json!({
        "metadata": {"uid": "u", "creationTimestamp": early}, "spec": {"hostNetwork": true},
        "status": {"containerStatuses": [running(late)]},
    });
    assert_eq!(serde_json::from_value::<PodObject>(host).unwrap().told().since, None);
    assert_eq!(told(json!({"phase": "Pending"})).since, None);
}
