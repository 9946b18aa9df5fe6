//! A real browser, headless: what it makes of a page, and whether everybody can read it.

#![allow(clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::programs::run;
use crate::tools;

const DEADLINE: Duration = Duration::from_secs(120);
/// How long a page may take in the browser's own time, in milliseconds.
const VIRTUAL_TIME: u64 = 20_000;

/// Where a page says what a browser may do.
const POLICY: &str = "<meta http-equiv=\"Content-Security-Policy\"";

/// What axe-core says against `page`, as JSON: nothing if everybody can read it. The page's own
/// policy would let no script run, so it is judged without that line.
///
/// # Panics
/// The browser or axe-core are not installed, or do not end.
pub async fn barriers(page: &str) -> Vec<Value> {
    let axe =
        std::fs::read_to_string(tools::workspace().join(".tools/axe.min.js")).expect("axe-core: run `make setup`");
    let judged = format!(
        "<script>{axe}</script><script>axe.run().then(found => {{ document.title = 'judged'; \
         const said = document.createElement('pre'); said.id = 'said'; \
         said.textContent = JSON.stringify(found.violations.map(of => [of.id, of.help, of.nodes.map(node => node.html)])); \
         document.body.appendChild(said); }});</script></body>"
    );
    let policy = page.find(POLICY).expect("a policy");
    let after = policy + page[policy..].find('>').expect("its end") + 1;
    let page = format!("{}{}", &page[..policy], &page[after..]).replacen("</body>", &judged, 1);
    let shown = browse(&page, &["--dump-dom"]).await;
    let said = shown.split("<pre id=\"said\">").nth(1).and_then(|rest| rest.split("</pre>").next());
    let said = said.unwrap_or_else(|| panic!("axe-core said nothing: {shown}"));
    let plain = said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{error}: {plain}"))
}

/// What becomes of `page` in the browser, as HTML.
///
/// # Panics
/// The browser is not installed, or does not end.
pub async fn rendered(page: &str) -> String {
    browse(page, &["--dump-dom"]).await
}

/// Writes a picture of `page`.
///
/// # Panics
/// As [`rendered`].
pub async fn picture(page: &str, file: &Path) {
    browse(page, &[&format!("--screenshot={}", file.display()), "--window-size=1000,2400"]).await;
}

async fn browse(page: &str, words: &[&str]) -> String {
    // Where the browser is a snap, it sees no file of ours.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    );
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            // One page is all there is, whatever is asked for.
            if stream.read(&mut request).await.is_ok() {
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let home = tempfile::tempdir().expect("a directory");
    let browser = ["chromium", "chromium-browser"].into_iter().find(|name| tools::is_there(name));
    let mut command = Command::new(tools::find(browser.unwrap_or("chromium")));
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]);
    command
        .arg(format!("--virtual-time-budget={VIRTUAL_TIME}"))
        .arg(format!("--user-data-dir={}", home.path().display()));
    command.args(words).arg(format!("http://{address}/")).kill_on_drop(true);
    let output = run(&mut command, DEADLINE).await.expect("the browser runs");
    serving.abort();
    assert!(output.status.success(), "{output}");
    output.stdout
}
