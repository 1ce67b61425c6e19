//! `deskgate routes`.

use deskgate::config::{Backend, Match, Route, TokenPlace, WebSocket};

use super::{ConfigArgument, Failure, say};

pub(super) fn routes(argument: &ConfigArgument) -> Result<(), Failure> {
    let layered = argument.load()?;
    let mut text = String::from(
        "| route | path | token | answered by | WebSocket | body | read |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for route in &layered.config.routes {
        text.push_str(&row(route));
    }
    say(&text)
}

fn row(route: &Route) -> String {
    let path = match &route.matches {
        Match::Exact(path) => format!("`{path}`"),
        Match::Prefix(path) if path == "/" => "everything else".to_owned(),
        Match::Prefix(path) if path.ends_with('/') => format!("below `{path}`"),
        Match::Prefix(path) => format!("`{path}` and below"),
        Match::Pattern(pattern) => format!("`{}`", pattern.replace('|', "\\|")),
    };
    let token = match route.token {
        None => "",
        Some(TokenPlace::Query) => "query, or `jwt_token` in it",
        Some(TokenPlace::BareQuery) => "query",
        Some(TokenPlace::Header) => "`ABCAuthorization`",
        Some(TokenPlace::Path) => "path",
    };
    let backend = match &route.backend {
        Backend::Desktop(port) => format!("the pod's {port}"),
        Backend::DesktopPorts(_) => "the pod, port in the path".to_owned(),
        Backend::Upstream(name) => name.clone(),
        Backend::Files(folder) => format!("files of `{}`", folder.display()),
        Backend::Renew | Backend::Text(_) => "deskgate".to_owned(),
    };
    format!(
        "| {} | {path} | {token} | {backend} | {} | {} | {} |\n",
        route.name,
        match route.websocket {
            WebSocket::Never => "",
            WebSocket::Allowed => "yes",
            WebSocket::Only => "only",
        },
        route.limits.body,
        humantime::format_duration(route.timeouts.read),
    )
}
