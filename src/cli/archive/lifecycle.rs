//! `stk archive lifecycle`: at which age archived days go to colder storage.

use clap::Args;

use super::print;
use crate::cli::CliError;
use crate::cli::desk::{open_cold, refusal};
use crate::config::Config;
use crate::telemetry::say;
use crate::tiering::cold::{Cold, StorageClass, Transition};

/// Below it lie the data objects. Manifests and footers stay where they can be read at once.
const DATA_PREFIX: &str = "ticks/";
const MANIFEST_PREFIX: &str = "manifest/";

/// Days that S3 bills of an object in Glacier, even if it leaves earlier.
const GLACIER_DAYS_MIN: u32 = 90;

#[derive(Args)]
pub(super) struct LifecycleArgs {
    /// Move data objects to Glacier (minutes to hours to read) at this age
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    glacier_after: Option<u32>,
    /// Move data objects to Deep Archive (hours to days to read) at this age
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..))]
    deep_archive_after: Option<u32>,
    /// Keep all data objects where they can be read at once: removes the rule
    #[arg(long, conflicts_with_all = ["glacier_after", "deep_archive_after"])]
    none: bool,
    /// Show the plan, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(args: &LifecycleArgs, config: &Config) -> Result<(), CliError> {
    let plan = plan(args)?;
    let cold = open_cold(config)?;
    match plan {
        None => show(&*cold).await,
        Some(plan) => set(&*cold, &plan, args.dry_run).await,
    }
}

/// The transitions that are asked for; `None` to show those there are.
fn plan(args: &LifecycleArgs) -> Result<Option<Vec<Transition>>, CliError> {
    if let (Some(glacier), Some(deep)) = (args.glacier_after, args.deep_archive_after)
        && glacier >= deep
    {
        return Err(CliError::usage(format!(
            "--glacier-after {glacier} is not before --deep-archive-after {deep}"
        )));
    }
    let glacier = args.glacier_after.map(|days| Transition { days, class: StorageClass::Glacier });
    let deep = args.deep_archive_after.map(|days| Transition { days, class: StorageClass::DeepArchive });
    let plan: Vec<_> = glacier.into_iter().chain(deep).collect();
    Ok((args.none || !plan.is_empty()).then_some(plan))
}

async fn show(cold: &dyn Cold) -> Result<(), CliError> {
    let transitions = cold.lifecycle(DATA_PREFIX).await.map_err(|error| refusal(error.into()))?;
    print(&in_words(&transitions))?;
    // A rule of somebody else's that reaches further than it should.
    let manifests = cold.lifecycle(MANIFEST_PREFIX).await.map_err(|error| refusal(error.into()))?;
    if manifests.iter().any(|transition| transition.class >= StorageClass::Glacier) {
        say(format!(
            "warning: a rule of the bucket archives manifests and footers too; queries would have to wait for them: \
             limit it to a prefix that is not below {}/{MANIFEST_PREFIX}",
            cold.name()
        ));
    }
    Ok(())
}

async fn set(cold: &dyn Cold, plan: &[Transition], dry_run: bool) -> Result<(), CliError> {
    let before = cold.lifecycle(DATA_PREFIX).await.map_err(|error| refusal(error.into()))?;
    print(&format!("now: {}then: {}", in_words(&before), in_words(plan)))?;
    if let [glacier, deep] = plan
        && deep.days - glacier.days < GLACIER_DAYS_MIN
    {
        say(format!(
            "warning: objects leave Glacier after {} days, and are billed for {GLACIER_DAYS_MIN}",
            deep.days - glacier.days
        ));
    }
    if dry_run {
        say("nothing was changed");
        return Ok(());
    }
    cold.set_lifecycle(DATA_PREFIX, plan).await.map_err(|error| refusal(error.into()))?;
    let after = cold.lifecycle(DATA_PREFIX).await.map_err(|error| refusal(error.into()))?;
    if after != plan {
        say(format!(
            "warning: other rules of the bucket reach these objects too; together: {}",
            in_words(&after)
        ));
    }
    Ok(())
}

fn in_words(transitions: &[Transition]) -> String {
    if transitions.is_empty() {
        return "data objects stay where they can be read at once\n".to_owned();
    }
    let steps = transitions.iter().map(|step| format!("{} from day {} on", step.class.name(), step.days));
    format!("data objects are in {}\n", steps.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(glacier_after: Option<u32>, deep_archive_after: Option<u32>, none: bool) -> LifecycleArgs {
        LifecycleArgs { glacier_after, deep_archive_after, none, dry_run: false }
    }

    #[test]
    fn the_plan_is_what_was_asked_for() {
        let glacier = Transition { days: 30, class: StorageClass::Glacier };
        let deep = Transition { days: 365, class: StorageClass::DeepArchive };
        assert_eq!(plan(&args(Some(30), Some(365), false)).unwrap(), Some(vec![glacier, deep]));
        assert_eq!(plan(&args(None, Some(365), false)).unwrap(), Some(vec![deep]));
        assert_eq!(plan(&args(None, None, true)).unwrap(), Some(vec![]));
        assert_eq!(plan(&args(None, None, false)).unwrap(), None);
        let refused = plan(&args(Some(365), Some(365), false)).unwrap_err();
        assert_eq!(refused.message(), "--glacier-after 365 is not before --deep-archive-after 365");
    }

    #[test]
    fn rules_are_said_in_words() {
        let plan = [
            Transition { days: 30, class: StorageClass::Glacier },
            Transition { days: 365, class: StorageClass::DeepArchive },
        ];
        assert_eq!(
            in_words(&plan),
            "data objects are in glacier from day 30 on, deep archive from day 365 on\n"
        );
        assert_eq!(in_words(&[]), "data objects stay where they can be read at once\n");
    }
}
