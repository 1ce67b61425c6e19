//! Renders recorded answers, presses keys, and asks a real listener.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::client::Error;
use super::*;
const RECORDED: &str = include_str!("recorded.json");

fn overview() -> Overview {
    serde_json::from_str(RECORDED).unwrap()
}

fn state() -> State {
    let mut state = State::new("unix:/run/deskgate/admin.sock");
    state.take(overview());
    let mut later = overview();
    later.time += 2.0;
    later.tunnels[0].to_client += 2_048_000;
    state.take(later);
    state
}

fn screen(state: &mut State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn shows_the_state_of_an_instance() {
    let text = screen(&mut state(), 130, 20);
    for part in [
        "deskgate unix:/run/deskgate/admin.sock  ● ready  edge-1 0.1.0  up 26h03m",
        "30.0 requests/s",
        "1.47 errors/s",
        "3 tunnels",
        "1.0 MiB/s to users",
        "7 tokens refused",
        "requests, 5 s a column, peak 40/s",
        "anna-01ab2",
        "websockify",
        "27 ms",
        "q quit",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn shows_the_rest_where_there_is_room() {
    let text = screen(&mut state(), 160, 40);
    for part in [
        "desktops: 1 of 1 ready, watching",
        "anna-01ab2  ready 1h08m, 1 tunnels",
        "refused tokens: 7",
        "expired  5",
        "desktops.example.org  32d",
        "3f9a1c07be42  signing 2048, 26h03m, 1200 verified",
        "ago: my.toml:3",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!screen(&mut state(), 160, 24).contains("refused tokens:"));
}

#[test]
fn says_what_a_list_that_was_cut_is_of() {
    let mut many = overview();
    many.tunnels_open = 800;
    many.desktops_known = 900;
    many.desktops[0].ready = false;
    many.desktops.push(many.desktops[0].clone());
    many.certificates[0].not_before = many.time + 7200.0;
    let mut state = State::new("x");
    state.take(many);
    let text = screen(&mut state, 160, 40);
    for part in [
        "800 tunnels  0 B/s to users  0 B/s to pods  of the 3 shown  7 tokens refused",
        "desktops: 898 of 900 ready, watching",
        "desktops.example.org  valid in 2h00m",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn rates_go_on_when_the_clock_was_set_back() {
    let mut state = state();
    let mut back = overview();
    back.time -= 3600.0;
    state.take(back.clone());
    assert_eq!(state.rates(1), (0.0, 0.0));
    back.time += 2.0;
    back.tunnels[0].to_client += 4096;
    state.take(back.clone());
    assert_eq!(state.rates(1), (0.0, 2048.0));
    back.time += 0.5;
    state.take(back);
    assert_eq!(state.rates(1), (0.0, 2048.0));
}

#[test]
fn nothing_of_one_process_is_done_to_the_next() {
    let mut state = state();
    state.pressed(KeyCode::Down);
    state.pressed(KeyCode::Char('c'));
    assert_eq!(state.closing, Some(2));
    let mut next = overview();
    next.time += 4.0;
    next.uptime = 1.0;
    state.take(next);
    assert_eq!(state.closing, None);
    assert_eq!(state.rates(1), (0.0, 0.0));
    assert_eq!(state.pressed(KeyCode::Char('y')), Asked::Nothing);
}

#[tokio::test]
async fn each_signal_that_ends_programs_is_heard() {
    use rustix::process::{Signal, getpid, kill_process};
    let mut ends = Ends::receive().unwrap();
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        kill_process(getpid(), signal).unwrap();
        tokio::time::timeout(Duration::from_secs(5), ends.next()).await.unwrap();
    }
}

#[test]
fn shows_nothing_that_a_terminal_obeys() {
    let mut odd = overview();
    odd.tunnels[0].pod = "a\u{1b}[2Jb".to_owned();
    odd.missing = vec!["\u{7}bell".to_owned()];
    let mut state = State::new("x\u{1b}");
    state.take(odd);
    let text = screen(&mut state, 130, 20);
    assert!(text.contains("a?[2Jb") && text.contains("not ready: ?bell"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn fits_into_any_terminal() {
    for (width, height) in [(1, 1), (20, 3), (80, 24), (300, 100)] {
        let mut state = state();
        state.closing = Some(1);
        screen(&mut state, width, height);
    }
    screen(&mut State::new(""), 80, 24);
}

#[test]
fn keys_sort_and_the_chosen_tunnel_stays() {
    let mut state = state();
    let ids = |state: &State| -> Vec<u64> {
        state.overview.as_ref().unwrap().tunnels.iter().map(|tunnel| tunnel.id).collect()
    };
    assert_eq!(ids(&state), [1, 2, 3]);
    state.pressed(KeyCode::Down);
    state.pressed(KeyCode::Char('a'));
    assert_eq!(ids(&state), [3, 1, 2]);
    assert_eq!(state.table.selected(), Some(2));
    state.pressed(KeyCode::Char('a'));
    assert_eq!(ids(&state), [2, 1, 3]);
    assert!(screen(&mut state, 130, 20).contains("age ↑"));
    state.pressed(KeyCode::Char('b'));
    assert_eq!(ids(&state)[0], 1);
    state.pressed(KeyCode::Char('t'));
    assert_eq!(ids(&state)[2], 3);
    state.pressed(KeyCode::End);
    assert_eq!(state.table.selected(), Some(2));
    state.pressed(KeyCode::PageUp);
    assert_eq!(state.table.selected(), Some(0));
    let mut fewer = overview();
    fewer.tunnels.clear();
    state.take(fewer);
    assert_eq!(state.table.selected(), None);
    assert_eq!(state.pressed(KeyCode::Char('c')), Asked::Nothing);
    assert_eq!(state.closing, None);
}

#[test]
fn closes_after_a_confirmation_only() {
    let mut state = state();
    state.pressed(KeyCode::Down);
    assert_eq!(state.pressed(KeyCode::Char('c')), Asked::Nothing);
    let text = screen(&mut state, 130, 20);
    assert!(text.contains("Close tunnel 2?") && text.contains("sound to boris-9c0de"), "{text}");
    assert_eq!(state.pressed(KeyCode::Char('q')), Asked::Nothing);
    state.pressed(KeyCode::Char('c'));
    assert_eq!(state.pressed(KeyCode::Char('y')), Asked::Close(2));
    assert_eq!(state.pressed(KeyCode::Char('y')), Asked::Nothing);
    assert_eq!(state.pressed(KeyCode::Char('q')), Asked::Quit);
}

#[test]
fn says_when_there_is_no_answer_and_keeps_the_last() {
    let mut state = state();
    state.lost("no answer in time".to_owned(), Instant::now());
    let text = screen(&mut state, 130, 20);
    assert!(text.contains("no answer for 0s: no answer in time"), "{text}");
    assert!(text.contains("anna-01ab2"));
    state.take(overview());
    assert!(screen(&mut state, 130, 20).contains("● ready"));
}

#[test]
fn addresses_are_of_two_kinds() {
    let parse = |text: &str| text.parse::<Address>().ok();
    assert_eq!(parse("127.0.0.1:9090"), Some(Address::Tcp("127.0.0.1:9090".to_owned())));
    assert_eq!(parse("http://[::1]:9090/"), Some(Address::Tcp("[::1]:9090".to_owned())));
    assert_eq!(parse("unix:/a b"), Some(Address::Unix("/a b".into())));
    for wrong in ["", "unix:", "localhost", "https://a:1", "a@b:1", "a:1/b"] {
        assert_eq!(parse(wrong), None, "{wrong}");
    }
}

/// A server that gives one answer to each of some requests; what it was asked comes back.
async fn answers(answer: String) -> (Client, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap().to_string());
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let count = stream.read(&mut head).await.unwrap();
        drop(stream.write_all(answer.as_bytes()).await);
        String::from_utf8_lossy(&head[..count]).into_owned()
    });
    (Client::new(address, Some("0123456789abcdef")).unwrap(), served)
}

#[tokio::test]
async fn asks_and_understands() {
    let length = RECORDED.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{RECORDED}");
    let (client, served) = answers(answer).await;
    assert_eq!(client.overview().await.unwrap(), overview());
    let asked = served.await.unwrap();
    assert!(asked.starts_with("GET /admin/overview HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
    assert!(asked.contains("authorization: Bearer 0123456789abcdef\r\n"));

    let (client, served) =
        answers("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".into()).await;
    client.close(7).await.unwrap();
    assert!(served.await.unwrap().starts_with("DELETE /admin/tunnels/7 "));
}

#[tokio::test]
async fn tells_what_went_wrong() {
    let (client, _) = answers("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n".into()).await;
    assert!(matches!(client.overview().await, Err(Error::Token)));
    let body = r#"{"message":"There is nothing here."}"#;
    let length = body.len();
    let answer = format!("HTTP/1.1 404 No\r\nContent-Length: {length}\r\n\r\n{body}");
    let (client, _) = answers(answer).await;
    let error = client.close(7).await.unwrap_err();
    assert_eq!(error.to_string(), "answered 404: There is nothing here.");
    let huge =
        format!("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n{}", " ".repeat(5_000_000));
    let (client, _) = answers(huge).await;
    assert!(matches!(client.overview().await, Err(Error::Answer)));
    let (client, _) = answers(String::new()).await;
    assert!(matches!(client.overview().await, Err(Error::Answer)));
    let closed = Client::new("127.0.0.1:1".parse().unwrap(), None).unwrap();
    assert!(matches!(closed.overview().await, Err(Error::Connect(_))));
}

#[tokio::test(start_paused = true)]
async fn waits_no_longer_than_its_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = Client::new(address.parse().unwrap(), None).unwrap();
    assert!(matches!(client.overview().await, Err(Error::Timeout)));
}

#[test]
fn news_of_an_order_are_told() {
    let mut state = state();
    take(&mut state, News { closed: Some((2, Ok(()))), overview: Ok(overview()) });
    assert!(screen(&mut state, 130, 20).contains("tunnel 2 was told to end"));
    let closed = Some((2, Err(Error::Token)));
    take(&mut state, News { closed, overview: Err(Error::Timeout) });
    let text = screen(&mut state, 130, 20);
    assert!(text.contains("tunnel 2: the admin token is missing"), "{text}");
    assert!(text.contains("no answer in time"), "{text}");
    state.pressed(KeyCode::Down);
    assert!(screen(&mut state, 130, 20).contains("q quit"));
}
