//! Checks as continuous integration reads them.

use crate::checks::{Check, Checks, Outcome};
use anstream::adapter::strip_str;
use quick_xml::{
    Writer,
    events::{BytesDecl, BytesText, Event},
};
use std::io;

/// JUnit XML: one test suite with a test case for each check.
///
/// # Errors
/// Never in practice: writing to memory does not fail.
pub fn junit(checks: &Checks) -> io::Result<String> {
    let count = |is: fn(&Outcome) -> bool| {
        checks
            .checks
            .iter()
            .filter(|c| is(&c.outcome))
            .count()
            .to_string()
    };
    let tests = checks.checks.len().to_string();
    let failures = count(|o| matches!(o, Outcome::Failed(_)));
    let errors = count(|o| matches!(o, Outcome::Error(_)));
    let skipped = count(|o| matches!(o, Outcome::Skipped(_)));
    let totals = [
        ("name", "bitnet-diff"),
        ("tests", &tests),
        ("failures", &failures),
        ("errors", &errors),
    ];
    let mut suite = totals.to_vec();
    suite[0].1 = &checks.title;
    suite.push(("skipped", &skipped));
    // XML 1.0 has no way to write most control characters, escaped or not.
    let plain = strip_str(&checks.text).to_string();
    let text: String = plain
        .chars()
        .filter(|c| !c.is_control() || "\n\t".contains(*c))
        .collect();
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    writer
        .create_element("testsuites")
        .with_attributes(totals)
        .write_inner_content(|w| {
            w.create_element("testsuite")
                .with_attributes(suite)
                .write_inner_content(|w| {
                    checks
                        .checks
                        .iter()
                        .try_for_each(|c| case(w, checks.command, c))?;
                    w.create_element("system-out")
                        .write_text_content(BytesText::new(&text))?;
                    Ok(())
                })?;
            Ok(())
        })?;
    let mut out = writer.into_inner();
    out.push(b'\n');
    String::from_utf8(out).map_err(io::Error::other)
}

fn case(writer: &mut Writer<Vec<u8>>, command: &str, check: &Check) -> io::Result<()> {
    let class = format!("bitnet-diff.{command}");
    let name = printable(&check.name);
    let element = writer
        .create_element("testcase")
        .with_attributes([("classname", class.as_str()), ("name", &name)]);
    let (kind, message) = match &check.outcome {
        Outcome::Passed => return element.write_empty().map(|_| ()),
        Outcome::Failed(message) => ("failure", message),
        Outcome::Error(message) => ("error", message),
        Outcome::Skipped(message) => ("skipped", message),
    };
    let message = printable(message);
    element.write_inner_content(|w| {
        w.create_element(kind)
            .with_attribute(("message", message.as_str()))
            .write_empty()?;
        Ok(())
    })?;
    Ok(())
}

fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Workflow commands of GitHub Actions: an annotation for each check that did not pass, or one notice.
pub fn github(checks: &Checks) -> String {
    let title = format!("bitnet-diff {}: {}", checks.command, checks.title);
    let mut out = String::new();
    for check in &checks.checks {
        let (level, message) = match &check.outcome {
            Outcome::Passed | Outcome::Skipped(_) => continue,
            Outcome::Failed(message) | Outcome::Error(message) => ("error", message),
        };
        let message = format!("{}: {message}", check.name);
        out.push_str(&annotation(level, &title, &message));
    }
    if out.is_empty() {
        let plain = strip_str(&checks.text).to_string();
        out = annotation("notice", &title, plain.lines().next().unwrap_or_default());
    }
    out
}

/// See "Workflow commands for GitHub Actions": `%`, line ends, and in properties `:` and `,`, are percent-encoded.
fn annotation(level: &str, title: &str, message: &str) -> String {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    format!("::{level} title={}::{}\n", property(title), data(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(outcome: Outcome) -> Checks {
        Checks {
            command: "first",
            title: "rust, 2 against c++".into(),
            checks: vec![Check {
                name: "a <b> & \"c\"\u{1}".into(),
                outcome,
            }],
            text: "\x1b[1mtext\x1b[0m & ]]> \u{7}\n".into(),
        }
    }

    #[test]
    fn names_and_messages_cannot_break_the_document() {
        let failed = checks(Outcome::Failed("100 %\nof <all>".into()));
        let xml = junit(&failed).expect("memory");
        let mut reader = quick_xml::Reader::from_str(&xml);
        let mut depth = 0;
        loop {
            match reader.read_event().expect("well-formed") {
                Event::Start(_) => depth += 1,
                Event::End(_) => depth -= 1,
                Event::Eof => break,
                _ => {}
            }
        }
        assert_eq!(depth, 0);
        assert!(xml.contains("failures=\"1\""), "{xml}");
        assert!(xml.contains("message=\"100 % of &lt;all&gt;\""), "{xml}");
        assert!(!xml.contains('\u{7}') && !xml.contains('\x1b'), "{xml}");
        assert_eq!(
            github(&failed),
            "::error title=bitnet-diff first%3A rust%2C 2 against c++::a <b> & \"c\"\u{1}: 100 %25%0Aof <all>\n"
        );
    }

    #[test]
    fn what_passed_is_one_notice() {
        let passed = checks(Outcome::Passed);
        assert!(junit(&passed).expect("memory").contains("failures=\"0\""));
        let notice = "::notice title=bitnet-diff first%3A rust%2C 2 against c++::text & ]]> \n";
        assert_eq!(github(&passed), notice);
    }
}
