//! Beginners' traps: each is told with its exit code and with what to do about it. What a user sees is quoted in
//! docs/troubleshooting.md, and every quote there is compared with what the program says (`assert_told`).
//!
//! | trap | test |
//! |---|---|
//! | database not up, or its host unknown | `unreachable` |
//! | … and up during the wait | `configuration::a_database_that_comes_up_late_is_waited_for` |
//! | wrong password, no such database | `configuration::a_database_that_refuses_us_…`, `unreachable` (`check`) |
//! | TLS wanted, TLS not offered | `unreachable` |
//! | may not make the schema | `schema::a_user_who_may_not_migrate_is_told_the_grant_that_helps` |
//! | no rights on the schema | `roles::a_user_without_a_role_…`, `check::missing_rights_are_told_with_the_grant` |
//! | newer schema | `schema::an_older_binary_refuses_a_newer_schema_and_touches_nothing` |
//! | older schema | `roles::a_member_of_runtime_cannot_change_history_or_the_schema` |
//! | `PgBouncer` | `pooler` |
//! | localhost inside a container | `check::localhost_inside_a_container_…`, `ports` (the compose file) |
//! | port taken | `ports` |
//! | unknown key, missing variable | `configuration::everything_wrong_is_said_at_once_with_its_place_and_a_hint` |
//! | no configuration file | `configuration::without_a_file_commands_work_and_run_says_what_is_missing` |
//! | no PostgreSQL programs | `machine`, `embedded::without_programs_it_says_what_to_install` |
//! | running as root | `machine`, `embedded::as_this_user_the_cluster_is_made_survives_a_kill_and_is_kept` |
//! | read-only directory | `machine` |
//! | full disk, and a server that it ended | `disk`, `embedded::a_server_that_dies_under_run_is_started_again` |

mod disk;
mod machine;
mod page;
mod pooler;
mod ports;
mod unreachable;

/// One source that needs no server.
const FILE_SOURCE: &str =
    "[loader]\nmax_idle = \"200ms\"\n[sources.audit]\ntype = \"file\"\npath = \"audit.ndjson\"\n";
