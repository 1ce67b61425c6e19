use std::fs;
use std::io::Read;
use std::sync::{Mutex, mpsc};

use tempfile::TempDir;

use crate::support::{PODS, SOON, Site, eventually, tokens};

/// Upstreams that answer with the response head in the request's `X-Answer` header.
fn scripted() -> Site {
    Site::serving(|exchange| {
        let headers = exchange.header("x-answer").unwrap_or_default().replace('|', "\r\n");
        let status = exchange.header("x-status").unwrap_or_else(|| "200 OK".to_owned());
        exchange.answer(&status, &format!("{headers}\r\n"), "text ".repeat(1000));
    })
}

#[test]
fn redirects_stay_on_the_public_origin_with_its_port() {
    let site = scripted();
    let website = site.website.address();
    let container = format!("/container/{}/{}/a", tokens::valid(PODS[0]), site.port);
    for (target, location, want) in [
        ("/", format!("http://{website}/b/"), "http://desk.example:30443/b/".to_owned()),
        ("/", "/b/".to_owned(), "/b/".to_owned()),
        ("/", "https://elsewhere.example/".to_owned(), "https://elsewhere.example/".to_owned()),
        ("/API/x", "http://desk.example/y".to_owned(), "http://desk.example:30443/y".to_owned()),
        ("/speedtest/x", "/y/".to_owned(), "/speedtest/y/".to_owned()),
        (&container, "/login".to_owned(), container.replace("/a", "/login")),
    ] {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: desk.example:30443\r\nX-Status: 302 Found\r\n\
             X-Answer: Location: {location}\r\n\r\n"
        );
        let answer = site.client().ask(request);
        assert_eq!(answer.header("location"), Some(want), "{target} {location}");
    }
}

#[test]
fn behind_a_proxy_that_changes_the_host_redirects_lead_to_its_own() {
    for (trusted, want) in [("127.0.0.0/8", "https://desk.example/b"), ("", "http://edge:80/b")] {
        let text = match trusted {
            "" => String::new(),
            network => format!("[listen]\ntrusted_proxies = [\"{network}\"]\n"),
        };
        let site = Site::configured_serving(&text, |exchange| {
            exchange.answer("302 Found", "Location: http://edge/b\r\n", "");
        });
        let answer = site.client().ask(
            "GET /API/x HTTP/1.1\r\nHost: edge:80\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: desk.example, other.example\r\n\r\n",
        );
        let moved = answer.header("location");
        assert_eq!(moved.as_deref(), Some(want), "{trusted}");
    }
}

#[test]
fn long_texts_are_compressed_for_those_who_take_it() {
    let site = scripted();
    let ask = |target: &str, accepts: &str, answer: &str| {
        site.get(target, &format!("Accept-Encoding: {accepts}\r\nX-Answer: {answer}\r\n"))
    };
    let text = "Content-Type: text/html|ETag: \"v1\"";
    for (accepts, coding) in [("gzip", "gzip"), ("br", "br"), ("zstd", "zstd")] {
        let answer = ask("/", accepts, text);
        assert_eq!(answer.header("content-encoding").as_deref(), Some(coding));
        assert_eq!(answer.header("vary").as_deref(), Some("Accept-Encoding"));
        assert_eq!(answer.header("etag").as_deref(), Some("W/\"v1\""));
        assert!(answer.body.len() < 500, "{coding}: {}", answer.body.len());
        // To its end, as a strict client does.
        let (body, mut whole) = (&answer.body[..], String::new());
        let read = match coding {
            "gzip" => flate2::read::GzDecoder::new(body).read_to_string(&mut whole),
            "br" => brotli::Decompressor::new(body, 4096).read_to_string(&mut whole),
            _ => zstd::Decoder::new(body).unwrap().read_to_string(&mut whole),
        };
        assert_eq!(read.map_err(|error| format!("{coding}: {error}")), Ok(5000));
        assert_eq!(whole, "text ".repeat(1000));
    }
    let plain = ask("/", "identity", text);
    assert_eq!(plain.header("content-encoding"), None);
    assert_eq!(plain.header("vary").as_deref(), Some("Accept-Encoding"));
    for (target, answer) in [
        ("/", "Content-Type: image/png"),
        ("/", "Content-Type: text/html|Cache-Control: no-transform"),
        ("/", "Content-Type: text/event-stream"),
        ("/speedtest/x", "Content-Type: text/html"),
    ] {
        let answered = ask(target, "gzip, br, zstd", answer);
        assert_eq!(answered.header("content-encoding"), None, "{target} {answer}");
        assert_eq!(answered.body.len(), 5000);
    }
}

#[test]
fn what_comes_bit_by_bit_is_passed_on_bit_by_bit() {
    let (next, asked) = mpsc::channel::<()>();
    let asked = Mutex::new(asked);
    let site = Site::serving(move |exchange| {
        exchange.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        for _ in 0..3 {
            exchange.write("4\r\nline\r\n");
            if asked.lock().unwrap().recv_timeout(SOON).is_err() {
                return;
            }
        }
        exchange.write("0\r\n\r\n");
    });
    let mut client = site.client();
    client.send("GET /API HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br, zstd\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.header("content-encoding"), None);
    for _ in 0..3 {
        // The upstream says no more until this has arrived.
        assert_eq!(client.bytes(9), b"4\r\nline\r\n");
        next.send(()).unwrap();
    }
    assert_eq!(client.bytes(5), b"0\r\n\r\n");
}

/// Profile 3 with a folder of files.
fn web_server() -> (Site, TempDir) {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("index.html", "<h1>index</h1>");
    write("app/index.html", "<h1>app</h1>");
    write("app/core.mjs", "export {}");
    write("mimetypes/application-octet-stream.svg", "<svg/>");
    write("mimetypes/text.svg", "<svg>text</svg>");
    write(".secret", "no");
    let root = folder.path().display();
    let site = Site::configured(&format!(
        "profile = \"abcdesktop-3\"\n\
         [[route]]\nname = \"website\"\nbackend = {{ files = \"{root}\" }}\n\
         [[route]]\nname = \"mimetypes\"\nbackend = {{ files = \"{root}\" }}\n"
    ));
    (site, folder)
}

#[test]
fn in_profile_3_deskgate_is_the_web_server() {
    let (site, folder) = web_server();
    for (target, status, content_type, body) in [
        ("/", 200, "text/html; charset=utf-8", "<h1>index</h1>"),
        ("/index.html", 200, "text/html; charset=utf-8", "<h1>index</h1>"),
        ("/app/core.mjs", 200, "text/javascript; charset=utf-8", "export {}"),
        ("/mimetypes/text.svg", 200, "image/svg+xml", "<svg>text</svg>"),
        ("/mimetypes/unknown.svg", 200, "image/svg+xml", "<svg/>"),
    ] {
        let answer = site.get(target, "");
        assert_eq!(answer.status, status, "{target}");
        let found = answer.header("content-type").unwrap_or_default();
        assert!(found.starts_with(content_type.split(';').next().unwrap()), "{target}: {found}");
        assert_eq!(answer.text(), body, "{target}");
        assert_eq!(answer.header("x-frame-options").as_deref(), Some("SAMEORIGIN"));
        assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"));
    }
    for target in ["/missing.html", "/.secret", "/app/..%2f.secret", "/app/missing"] {
        let status = site.get(target, "").status;
        assert!([400, 404].contains(&status), "{target}: {status}");
    }
    let moved = site.get("/app?q", "");
    assert_eq!(moved.status, 301);
    assert_eq!(moved.header("location").as_deref(), Some("/app/?q"));
    let refused = site.ask("POST", "/index.html", "Content-Length: 0\r\n");
    assert_eq!((refused.status, refused.header("allow").as_deref()), (405, Some("GET, HEAD")));
    let tag = site.get("/index.html", "").header("etag").unwrap();
    assert_eq!(site.get("/index.html", &format!("If-None-Match: {tag}\r\n")).status, 304);
    let part = site.get("/index.html", "Range: bytes=4-8\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, "index"));
    let head = site.ask("HEAD", "/index.html", "");
    assert_eq!(head.header("content-length").as_deref(), Some("14"));
    fs::write(folder.path().join("index.html"), "<h1>newer</h1>!").unwrap();
    eventually("a new client appears", || {
        (site.get("/", "").text() == "<h1>newer</h1>!").then_some(())
    });
}

#[test]
fn a_way_to_a_folder_has_the_prefix_that_the_files_do_not_know() {
    let folder = TempDir::new().unwrap();
    fs::create_dir(folder.path().join("guide")).unwrap();
    let site = Site::configured(&format!(
        "[[route]]\nname = \"docs\"\nmatch = {{ prefix = \"/docs\" }}\nrewrite = \"{{rest}}\"\n\
         backend = {{ files = {:?} }}\n",
        folder.path()
    ));
    let answer = site.get("/docs/guide?x", "");
    assert_eq!(answer.status, 301);
    assert_eq!(answer.header("location").as_deref(), Some("/docs/guide/?x"));
}

#[test]
fn a_folder_that_is_missing_stops_nothing() {
    let site = Site::configured(
        "[[route]]\nname = \"well-known\"\nbackend = { files = \"/nonexistent/folder\" }\n",
    );
    assert_eq!(site.get("/.well-known/acme-challenge/x", "").status, 404);
    assert_eq!(site.get("/API", "").status, 200);
}

#[test]
fn a_proof_for_a_certificate_is_served() {
    let folder = TempDir::new().unwrap();
    let proofs = folder.path().join(".well-known/acme-challenge");
    fs::create_dir_all(&proofs).unwrap();
    fs::write(proofs.join("token"), "proof").unwrap();
    let root = folder.path().display();
    let site = Site::configured(&format!(
        "[[route]]\nname = \"well-known\"\nbackend = {{ files = \"{root}\" }}\n"
    ));
    assert_eq!(site.get("/.well-known/acme-challenge/token", "").text(), "proof");
}
