//! A bucket's lifecycle configuration as S3 writes it: rules of others are kept to the letter.
//!
//! S3's answers are XML of its own making, without comments, CDATA or attributes inside a rule, so
//! that elements can be found by their tags.

use super::{StorageClass, Transition};

/// Days after which parts of uploads that were never finished are removed.
const ABANDONED_DAYS: u32 = 7;

/// The text within the first element `name` of `xml`, and what follows it.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let start = xml.find(&open)? + open.len();
    let len = xml[start..].find(&close)?;
    Some((&xml[start..start + len], &xml[start + len + close.len()..]))
}

fn elements<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (inside, after) = element(rest, name)?;
        rest = after;
        Some(inside)
    })
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&amp;", "&")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The prefix that a rule is about, if it is about a prefix and nothing else.
fn prefix_of(rule: &str) -> Option<String> {
    // Without a filter by tags or size; a rule without any filter is about everything.
    let narrower = ["Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan"];
    if narrower.iter().any(|name| element(rule, name).is_some()) {
        return None;
    }
    Some(element(rule, "Prefix").map(|(prefix, _)| unescaped(prefix)).unwrap_or_default())
}

/// The transitions that move objects below `prefix`, in the order of their days.
pub(super) fn transitions(configuration: &str, prefix: &str) -> Vec<Transition> {
    let mut found = Vec::new();
    for rule in elements(configuration, "Rule") {
        let enabled = element(rule, "Status").is_some_and(|(status, _)| status == "Enabled");
        if !enabled || !prefix_of(rule).is_some_and(|about| prefix.starts_with(&about)) {
            continue;
        }
        for transition in elements(rule, "Transition") {
            let days = element(transition, "Days").and_then(|(days, _)| days.trim().parse().ok());
            let class = element(transition, "StorageClass").map(|(class, _)| class_of(class));
            if let (Some(days), Some(class)) = (days, class) {
                found.push(Transition { days, class });
            }
        }
    }
    found.sort_by_key(|transition| (transition.days, transition.class));
    found
}

/// The configuration with `transitions` for objects below `prefix`, and every other rule as it was.
pub(super) fn replaced(configuration: &str, prefix: &str, transitions: &[Transition]) -> String {
    let mut out = String::from("<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for rule in elements(configuration, "Rule") {
        let own = element(rule, "ID").is_some_and(|(id, _)| unescaped(id) == own_id(prefix));
        if !own {
            out.push_str(&format!("<Rule>{rule}</Rule>"));
        }
    }
    if !transitions.is_empty() {
        out.push_str(&format!(
            "<Rule><ID>{}</ID><Filter><Prefix>{}</Prefix></Filter><Status>Enabled</Status>",
            escaped(&own_id(prefix)),
            escaped(prefix)
        ));
        for Transition { days, class } in transitions {
            let class = class_name(*class);
            out.push_str(&format!(
                "<Transition><Days>{days}</Days><StorageClass>{class}</StorageClass></Transition>"
            ));
        }
        out.push_str(&format!(
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>{ABANDONED_DAYS}</DaysAfterInitiation>\
             </AbortIncompleteMultipartUpload></Rule>"
        ));
    }
    out.push_str("</LifecycleConfiguration>");
    out
}

/// Whether the configuration has any rule: S3 takes no empty one, it is deleted instead.
pub(super) fn has_rules(configuration: &str) -> bool {
    element(configuration, "Rule").is_some()
}

fn own_id(prefix: &str) -> String {
    format!("stk: {prefix}")
}

/// The class by the name S3 gives it; those that this program does not use are read at once.
pub(super) fn class_of(name: &str) -> StorageClass {
    match name.trim() {
        "STANDARD_IA" | "ONEZONE_IA" => StorageClass::InfrequentAccess,
        "GLACIER_IR" => StorageClass::GlacierInstant,
        "GLACIER" => StorageClass::Glacier,
        "DEEP_ARCHIVE" => StorageClass::DeepArchive,
        _ => StorageClass::Standard,
    }
}

/// The name S3 gives it.
pub(super) fn class_name(class: StorageClass) -> &'static str {
    match class {
        StorageClass::Standard => "STANDARD",
        StorageClass::InfrequentAccess => "STANDARD_IA",
        StorageClass::GlacierInstant => "GLACIER_IR",
        StorageClass::Glacier => "GLACIER",
        StorageClass::DeepArchive => "DEEP_ARCHIVE",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHERS: &str = "<Rule><ID>logs &amp; more</ID><Filter><And><Prefix>logs/</Prefix><Tag><Key>k</Key>\
        <Value>v</Value></Tag></And></Filter><Status>Enabled</Status><Expiration><Days>3</Days></Expiration></Rule>";

    #[test]
    fn rules_of_others_stay_to_the_letter() {
        let before = format!(
            "<?xml version=\"1.0\"?><LifecycleConfiguration xmlns=\"x\">{OTHERS}</LifecycleConfiguration>"
        );
        let plan = [
            Transition { days: 30, class: StorageClass::Glacier },
            Transition { days: 400, class: StorageClass::DeepArchive },
        ];
        let set = replaced(&before, "a/ticks/", &plan);
        assert!(set.contains(OTHERS), "{set}");
        assert_eq!(transitions(&set, "a/ticks/"), plan);
        assert_eq!(transitions(&set, "a/manifest/"), []);
        // Set again: the rule is replaced, not added.
        let again = replaced(&set, "a/ticks/", &plan[1..]);
        assert!(again.contains(OTHERS) && again.matches("<Rule>").count() == 2);
        assert_eq!(transitions(&again, "a/ticks/"), plan[1..]);
        let none = replaced(&again, "a/ticks/", &[]);
        assert!(none.contains(OTHERS) && none.matches("<Rule>").count() == 1 && has_rules(&none));
        assert!(!has_rules(&replaced("", "a/ticks/", &[])));
    }

    #[test]
    fn rules_that_reach_further_count_and_disabled_ones_do_not() {
        let rule = |prefix: &str, status: &str| {
            format!(
                "<Rule><Filter><Prefix>{prefix}</Prefix></Filter><Status>{status}</Status>\
                 <Transition><Days>9</Days><StorageClass>DEEP_ARCHIVE</StorageClass></Transition></Rule>"
            )
        };
        let deep = [Transition { days: 9, class: StorageClass::DeepArchive }];
        assert_eq!(transitions(&rule("", "Enabled"), "ticks/"), deep);
        assert_eq!(transitions(&rule("ti", "Enabled"), "ticks/"), deep);
        assert_eq!(transitions(&rule("ticks/kind=trade/", "Enabled"), "ticks/"), []);
        assert_eq!(transitions(&rule("ticks/", "Disabled"), "ticks/"), []);
    }
}
