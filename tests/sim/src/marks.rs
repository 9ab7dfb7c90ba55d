//! The names of all events of recovery, from where they are defined, so that the ones that no run
//! met can be told.

const SOURCE: &str = include_str!("../../../recovery/src/event.rs");

/// Every name that an event can have.
#[must_use]
pub fn all() -> Vec<&'static str> {
    let arms = SOURCE.lines().filter_map(|line| {
        let (variant, name) = line.split_once(" => \"")?;
        variant.trim().starts_with("What::").then_some(name)
    });
    arms.filter_map(|name| name.strip_suffix("\",")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_event_of_a_run_has_a_name_in_the_list() {
        let all = super::all();
        let report = crate::run(3, &crate::Mix::quiet());
        assert!(
            report.marks.contains_key("stream-started"),
            "{:?}",
            report.marks
        );
        for mark in report.marks.keys() {
            assert!(all.contains(&mark.as_str()), "{mark} is missing in {all:?}");
        }
        assert!(all.contains(&"barrier-expired"), "the last one");
        assert!(all.iter().all(|name| !name.contains(' ')), "{all:?}");
    }
}
