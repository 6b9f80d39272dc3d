//! Pages that need nothing else: one style, readable on light and dark screens, no script and nothing from the network.

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2129;background:#fff}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #e3e5e8;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.bad{color:#b3261e;font-weight:600}.good{color:#1b7a3d}.quiet{color:#656b75}svg{max-width:100%;height:auto}\
details{border:1px solid #e3e5e8;border-radius:6px;padding:.5rem .8rem;margin:.5rem 0}summary{cursor:pointer}\
.two{display:grid;grid-template-columns:1fr 1fr;gap:1rem}.two pre{white-space:pre-wrap;overflow-wrap:anywhere;background:#f6f7f8;padding:.6rem;border-radius:4px;font:13px/1.45 ui-monospace,monospace}\
@media(prefers-color-scheme:dark){body{background:#16181c;color:#e3e5e8}th,td,details{border-color:#33373e}.two pre{background:#1f2228}.bad{color:#ff8a80}.good{color:#7bd89b}.quiet{color:#9aa1ac}}";

/// A page with a title, which must be escaped, over a body.
#[must_use]
pub fn document(title: &str, body: &str) -> String {
    styled(title, "", body)
}

/// A page as [`document`] makes it, with some style of its own after the common one.
#[must_use]
pub fn styled(title: &str, style: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}{style}</style>{body}</html>\n"
    )
}

/// A text as it may stand in a page, also in an attribute.
#[must_use]
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
