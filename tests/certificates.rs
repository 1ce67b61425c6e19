use std::process::Command;

use crate::support::{PODS, Site, free_port, tokens};
use crate::tls::{Issued, curl};

/// What openssl and nginx's users make of the header: the certificate again.
fn unescaped(header: &str) -> String {
    percent_encoding::percent_decode_str(header).decode_utf8().unwrap().into_owned()
}

fn optional(issued: &Issued) -> String {
    let ca = issued.path("ca.pem");
    format!("client_certificates = \"optional\"\nclient_authorities = {ca:?}\n")
}

#[test]
fn pyos_is_told_the_certificate_that_was_verified() {
    let issued = Issued::new();
    issued.issue("user");
    let port = free_port();
    let site = issued.site(port, &optional(&issued));
    let (ca, user, key) = (issued.path("ca.pem"), issued.path("user.crt"), issued.path("user.key"));
    let shown = ["--cert", user.to_str().unwrap(), "--key", key.to_str().unwrap()];
    let forged = ["-H", "AbcdesktopUserCert: somebody else", "-H", "abcdesktopusercert: twice"];
    let url = |target: &str| format!("https://desk.example:{port}{target}");
    let login = url("/API/auth/logmein?provider=sslclient");
    for version in ["--http1.1", "--http2"] {
        let args = [&shown[..], &forged, &[version, &login]].concat();
        assert!(curl(port, &ca, &args).ends_with(" 200"));
        let seen = site.pyos.last();
        let told = seen.header("abcdesktopusercert").unwrap();
        let pem = unescaped(&told);
        assert_eq!(
            pem.trim(),
            std::fs::read_to_string(&user).unwrap().replace("\r\n", "\n").trim()
        );
        assert!(!told.contains(['\n', ' ', '+']), "{told}");
        let name = Command::new("openssl")
            .args(["x509", "-noout", "-subject", "-in"])
            .arg(&user)
            .output()
            .unwrap();
        assert!(name.status.success());
        // Nobody else is told, least of all a desktop.
        let token = format!("ABCAuthorization: {}", tokens::valid(PODS[0]));
        for (origin, target) in [(&site.pods[0], "/filer"), (&site.website, "/page")] {
            let target = url(target);
            let args = [&shown[..], &forged, &[version, "-H", &token, &target]].concat();
            assert!(curl(port, &ca, &args).ends_with(" 200"));
            assert_eq!(origin.last().header("abcdesktopusercert"), None);
        }
        // Who shows none is nobody, whatever he writes.
        let args = [&forged[..], &[version, &login]].concat();
        assert!(curl(port, &ca, &args).ends_with(" 200"));
        assert_eq!(site.pyos.last().header("abcdesktopusercert"), None);
    }
}

#[test]
fn a_certificate_of_another_issuer_is_no_certificate() {
    let (issued, other) = (Issued::new(), Issued::new());
    other.issue("user");
    let port = free_port();
    let site = issued.site(port, &optional(&issued));
    let (user, key) = (other.path("user.crt"), other.path("user.key"));
    let url = format!("https://desk.example:{port}/API/x");
    let args = ["--cert", user.to_str().unwrap(), "--key", key.to_str().unwrap(), &url];
    assert!(!curl(port, &issued.path("ca.pem"), &args).ends_with("200"));
    assert!(site.pyos.seen().is_empty());
}

#[test]
fn only_a_trusted_proxy_tells_of_certificates_in_plain() {
    let header = format!("AbcdesktopUserCert: {}\r\n", "A".repeat(8172));
    let wary = Site::start();
    assert_eq!(wary.get("/API/x", &header).status, 200);
    assert_eq!(wary.pyos.last().header("abcdesktopusercert"), None);
    let trusting = Site::configured("[listen]\ntrusted_proxies = [\"127.0.0.1/32\"]\n");
    assert_eq!(trusting.get("/API/x", &header).status, 200);
    let told = trusting.pyos.last().header("abcdesktopusercert");
    assert_eq!(told.map(|told| told.len()), Some(8172));
    let headers = format!("{header}{}", Site::bearer());
    assert_eq!(trusting.get("/filer", &headers).status, 200);
    assert_eq!(trusting.pods[0].last().header("abcdesktopusercert"), None);
}

#[test]
fn each_listener_has_its_own_demand() {
    let issued = Issued::new();
    issued.issue("user");
    let (open, closed) = (free_port(), free_port());
    let ca = issued.path("ca.pem");
    let site = issued.site_at(
        &[open, closed],
        &format!(
            "client_authorities = {ca:?}\n\
         client_certificates_at = {{ \"127.0.0.1:{closed}\" = \"required\" }}\n"
        ),
    );
    let url = |port: u16| format!("https://desk.example:{port}/healthz");
    let (user, key) = (issued.path("user.crt"), issued.path("user.key"));
    let shown = ["--cert", user.to_str().unwrap(), "--key", key.to_str().unwrap()];
    assert!(curl(open, &ca, &[&url(open)]).ends_with(" 200"));
    assert!(!curl(closed, &ca, &[&url(closed)]).ends_with(" 200"));
    let with = |port: u16| curl(port, &ca, &[&shown[..], &[&url(port)]].concat());
    assert!(with(open).ends_with(" 200") && with(closed).ends_with(" 200"));
    // A new certificate of the server is served at both.
    let before = (issued.served(open), site.gateway.output().len());
    issued.issue("tls");
    site.gateway.signal("HUP");
    crate::support::eventually("the new certificate", || {
        (issued.served(open) != before.0).then_some(())
    });
    assert!(with(closed).ends_with(" 200"));
}
