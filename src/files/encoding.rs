//! `Accept-Encoding`: which coding of a file a client gets (RFC 9110 §12.5.3).

use http::HeaderMap;
use http::header::ACCEPT_ENCODING;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Coding {
    /// RFC 8878; content of at most 256 KiB keeps within the window of RFC 9659.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, in our order of preference.
    pub(super) const ALL: [Self; 3] = [Self::Zstd, Self::Brotli, Self::Gzip];

    /// Its name in HTTP.
    pub(super) fn token(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }

    /// The extension of files in it.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Brotli => "br",
            Self::Gzip => "gz",
        }
    }
}

/// Whether a coding of a file can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Offer {
    /// No.
    None,
    /// It would be made here, fast rather than small.
    OnDemand,
    /// It lies beside the file.
    Ready,
}

/// What of a client's wishes decides which form of a file it gets, whatever forms there are: for each of
/// [`Coding::ALL`] its rank, 0 for one that is never sent. However weights are written, there are 26.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Ranks([usize; 3]);

/// What a client accepts, as weights in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Accepted {
    zstd: Option<u16>,
    brotli: Option<u16>,
    gzip: Option<u16>,
    identity: Option<u16>,
    any: Option<u16>,
}

impl Accepted {
    /// `None` when the client says nothing: it then gets the file as it is.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut accepted = None;
        for value in headers.get_all(ACCEPT_ENCODING) {
            let accepted = accepted.get_or_insert_with(Self::default);
            value.to_str().unwrap_or("").split(',').for_each(|member| accepted.add(member));
        }
        accepted
    }

    /// Takes note of one member; what is malformed or unknown is as good as absent.
    fn add(&mut self, member: &str) {
        let (token, weight) = match member.split_once(';') {
            Some((token, parameter)) => (token.trim(), weight(parameter)),
            None => (member.trim(), Some(1000)),
        };
        let slot = match token.to_ascii_lowercase().as_str() {
            "zstd" => &mut self.zstd,
            "br" => &mut self.brotli,
            // RFC 9110 §8.4.1.3
            "gzip" | "x-gzip" => &mut self.gzip,
            "identity" => &mut self.identity,
            "*" => &mut self.any,
            _ => return,
        };
        if slot.is_none() {
            *slot = weight;
        }
    }

    fn weight_of(&self, coding: Coding) -> u16 {
        let own = match coding {
            Coding::Zstd => self.zstd,
            Coding::Brotli => self.brotli,
            Coding::Gzip => self.gzip,
        };
        own.or(self.any).unwrap_or(0)
    }

    /// The codings in the order in which the client prefers them to the plain file.
    pub(super) fn ranks(self) -> Ranks {
        // Not named, the plain file is acceptable but the last choice.
        let plain = self.identity.or(self.any).unwrap_or(0);
        let weights = Coding::ALL.map(|coding| self.weight_of(coding));
        let weights = weights.map(|weight| if weight >= plain { weight } else { 0 });
        Ranks(weights.map(|weight| match weight {
            0 => 0,
            _ => 1 + weights.iter().filter(|other| **other < weight).count(),
        }))
    }

    /// The coding to send; `None` is the file as it is.
    ///
    /// That is also the answer to a client that refuses all there is: RFC 9110 §12.4.1 allows to
    /// disregard the field, and content serves a user better than 406.
    pub(super) fn choose(self, offer: impl Fn(Coding) -> Offer) -> Option<Coding> {
        Coding::ALL
            .into_iter()
            .zip(self.ranks().0)
            .rev()
            .map(|(coding, rank)| (rank, offer(coding), coding))
            .filter(|(rank, offer, _)| *rank > 0 && *offer != Offer::None)
            // The last of equals wins, hence the reversal.
            .max_by_key(|(rank, offer, _)| (*rank, *offer))
            .map(|(_, _, coding)| coding)
    }
}

/// `q=0.5` in thousandths (RFC 9110 §12.4.2).
fn weight(parameter: &str) -> Option<u16> {
    let (name, value) = parameter.trim().split_once('=')?;
    if !name.eq_ignore_ascii_case("q") {
        return None;
    }
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse::<u16>().ok()?;
    match (whole, thousandths) {
        ("0", _) => Some(thousandths),
        ("1", 0) => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn choose(header: &str, offers: [Offer; 3]) -> &'static str {
        let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, header.parse().unwrap())]);
        let offer = |coding| offers[Coding::ALL.iter().position(|known| *known == coding).unwrap()];
        Accepted::from_headers(&headers).unwrap().choose(offer).map_or("-", Coding::token)
    }

    #[test]
    fn weights_are_honoured_when_all_can_be_made() {
        for (header, expected) in [
            ("gzip, deflate, br, zstd", "zstd"),
            ("gzip, deflate, br", "br"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("deflate", "-"),
            ("", "-"),
            (",,", "-"),
            ("*", "zstd"),
            ("zstd;q=0, *", "br"),
            ("*;q=0", "-"),
            ("*;q=0, gzip", "gzip"),
            ("identity", "-"),
            ("identity, gzip", "gzip"),
            ("identity;q=1, gzip;q=0.5", "-"),
            ("identity;q=0.5, gzip;q=0.5", "gzip"),
            ("identity;q=0", "-"),
            ("identity;q=0, *", "zstd"),
            ("identity;q=0, gzip;q=0.001", "gzip"),
            ("zstd;q=0.8, br;q=0.9, gzip;q=0.1", "br"),
            ("zstd;q=0.8,br;q=0.80,gzip;q=1.0", "gzip"),
            ("br ; q=0.5 , gzip\t;\tq=0.4", "br"),
            ("br;Q=0", "-"),
            ("br;q=0.000", "-"),
            ("br;q=1.001", "-"),
            ("br;q=2", "-"),
            ("br;q=-1", "-"),
            ("br;q=0.0001", "-"),
            ("br;q", "-"),
            ("br;level=5", "-"),
            ("br;q=0, br", "-"),
        ] {
            assert_eq!(choose(header, [Offer::OnDemand; 3]), expected, "{header}");
        }
    }

    #[test]
    fn what_lies_there_is_preferred_to_what_would_be_made() {
        use Offer::{None as No, OnDemand as Make, Ready};
        for (header, offers, expected) in [
            ("zstd, br, gzip", [Make, Make, Ready], "gzip"),
            ("zstd, br, gzip", [Make, Ready, Ready], "br"),
            ("zstd, br, gzip;q=0.9", [Make, Make, Ready], "zstd"),
            ("zstd, br", [No, No, Ready], "-"),
            ("zstd, br, gzip", [No, No, Ready], "gzip"),
            ("zstd, br, gzip", [No; 3], "-"),
            ("*;q=1, br;q=0.5", [No, Ready, No], "-"),
        ] {
            assert_eq!(choose(header, offers), expected, "{header} {offers:?}");
        }
    }

    #[test]
    fn weights_are_as_good_as_the_order_that_they_mean() {
        let ranks = |header: &str| {
            let headers = HeaderMap::from_iter([(ACCEPT_ENCODING, header.parse().unwrap())]);
            Accepted::from_headers(&headers).unwrap().ranks()
        };
        for same in [
            &["gzip, br, zstd", "zstd;q=0.1, gzip;q=0.100, br;q=0.1", "*", "deflate, *;q=0.3"][..],
            &["br, gzip;q=0.5", "gzip;q=0.001, br;q=0.002", "br, gzip;q=0.9, zstd;q=0"],
            &["", "deflate", "identity", "identity, zstd;q=0.9, br;q=0.1", "*;q=0"],
        ] {
            assert!(same.iter().all(|header| ranks(header) == ranks(same[0])), "{same:?}");
        }
        let all = ["gzip, br, zstd", "br, gzip;q=0.5", "gzip, br;q=0.5", "br, gzip", "br", ""];
        let different: std::collections::HashSet<_> = all.into_iter().map(ranks).collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn the_field_may_be_absent_or_repeated() {
        assert!(Accepted::from_headers(&HeaderMap::new()).is_none());
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("br;q=0.5"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(ACCEPT_ENCODING, HeaderValue::from_bytes(b"\xff").unwrap());
        let accepted = Accepted::from_headers(&headers).unwrap();
        assert_eq!(accepted.choose(|_| Offer::Ready), Some(Coding::Gzip));
    }
}
