//! `tests/golden/gateway/conversations.txt`, played.

use std::time::Duration;

use stk::secret::Secret;
use stk::server::gateway::ClientKey;
use tokio_tungstenite::tungstenite::Error;

use super::support::{Client, Server, cancel, config, gap, quote, trade};

const FILE: &str = include_str!("../golden/gateway/conversations.txt");

#[tokio::test]
async fn every_conversation_goes_as_written() {
    let text: String =
        FILE.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut count = 0;
    for conversation in text.split("\n== ").filter(|part| !part.trim().is_empty()) {
        let (name, lines) = conversation.split_once('\n').unwrap();
        let lines: Vec<&str> = lines.lines().filter(|line| !line.is_empty()).collect();
        let played = play(name.trim_start_matches("== "), &lines);
        tokio::time::timeout(Duration::from_mins(1), played)
            .await
            .unwrap_or_else(|_| panic!("{name}: no answer"));
        count += 1;
    }
    assert_eq!(count, FILE.matches("\n== ").count(), "all of them were played");
}

async fn play(name: &str, lines: &[&str]) {
    let is_timed = lines.iter().any(|line| line.starts_with("wait "));
    let mut config = config();
    let (mut path, mut headers) = ("/v2/stk", Vec::new());
    for line in lines {
        match line.split_once(' ') {
            Some(("keys", key)) => {
                let (id, secret) = key.split_once(':').unwrap();
                config.keys.push(ClientKey { id: id.to_owned(), secret: Secret::new(secret) });
            }
            Some(("symbols-max", count)) => config.symbols_max = count.parse().unwrap(),
            Some(("path", given)) => path = given,
            Some(("header", header)) => {
                let (name, value) = header.split_once(": ").unwrap();
                headers.push((name.to_owned(), value.to_owned()));
            }
            _ => {}
        }
    }
    let server = Server::start(config).await;
    if is_timed {
        tokio::time::pause();
    }
    let mut client: Option<Client> = None;
    for line in lines {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "keys" | "symbols-max" | "path" | "header" => {}
            "trade" => {
                let (symbol, id) = rest.split_once(' ').unwrap();
                server.publish(&[trade(symbol, id.parse().unwrap())]).await;
            }
            "break" => {
                let (symbol, id) = rest.split_once(' ').unwrap();
                server.publish(&[cancel(symbol, id.parse().unwrap())]).await;
            }
            "quote" => server.publish(&[quote(rest)]).await,
            "gap" => server.publish(&[gap((rest != "-").then_some(rest))]).await,
            "!" => {
                let Err(Error::Http(response)) = Client::open(server.address, path, &headers).await else {
                    panic!("{name}: the upgrade is not refused");
                };
                assert_eq!(response.status().as_str(), rest, "{name}");
            }
            _ => {
                if client.is_none() {
                    client = Some(Client::open(server.address, path, &headers).await.unwrap());
                }
                let client = client.as_mut().unwrap();
                match word {
                    ">" => client.say(rest).await,
                    "<" => {
                        let heard = client.hear().await;
                        // The only time that is this machine's.
                        let heard = match heard.split_once(r#""t":""#) {
                            Some((head, _)) if head.contains("heartbeat") => format!("{head}\"t\":\"…\"}}]"),
                            _ => heard,
                        };
                        assert_eq!(heard, rest, "{name}");
                    }
                    "wait" => tokio::time::advance(Duration::from_secs(rest.parse().unwrap())).await,
                    "x" => assert_eq!(client.closed().await.to_string(), rest, "{name}"),
                    _ => panic!("{name}: what is \"{line}\"?"),
                }
            }
        }
    }
    if is_timed {
        tokio::time::resume();
    }
}
