//! The certificate as one page that needs nothing else.

use snnc_runtime::certificate::Certificate;

/// The page; it holds the whole certificate.
pub(super) fn html(certificate: &Certificate) -> Result<String, serde_json::Error> {
    // Nothing in the data may end the element that it stands in.
    let data = serde_json::to_string(certificate)?.replace('<', "\\u003c");
    let name = certificate.subject.name.replace('&', "&amp;").replace('<', "&lt;");
    let title = format!("{name} is {}", certificate.verdict);
    let script = [include_str!("drawing.js"), include_str!("page.js")].concat();
    // From the last to the first: what is put in may hold any word.
    Ok(include_str!("page.html").replacen("SCRIPT", script.trim_end(), 1).replacen("DATA", &data, 1).replacen("TITLE", &title, 1))
}
