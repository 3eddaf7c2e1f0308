# Who may do what, and no more: an account for each part, and each role on as little as it can be given on.
locals {
  accounts = {
    webserver = "Dagster's UI, which only reads"
    reports   = "Dagster's webserver that takes reports of upstream changes"
    daemon    = "Dagster's daemon: looks at upstream tables and models, begins runs"
    run       = "Runs: makes tables and models"
    collector = "The collector: keeps feeds"
    live      = "Live predictions: reads models and feeds, keeps what was published"
    predictor = "The predictor: reads models"
    events    = "The event function: reports to Dagster"
    trigger   = "Eventarc: calls the event function"
  }

  on_project = {
    webserver = ["roles/cloudsql.client"]
    reports   = ["roles/cloudsql.client"]
    daemon    = ["roles/cloudsql.client", "roles/bigquery.jobUser"]
    run       = ["roles/cloudsql.client", "roles/bigquery.jobUser", "roles/bigquery.readSessionUser"]
    trigger   = ["roles/eventarc.eventReceiver"]
  }

  # storage.legacyBucketReader is the narrowest role with buckets.get, which Dagster's log manager asks for.
  on_bucket = {
    webserver = ["roles/storage.objectViewer", "roles/storage.legacyBucketReader"]
    reports   = ["roles/storage.legacyBucketReader"]
    daemon    = ["roles/storage.objectViewer", "roles/storage.legacyBucketReader"]
    run       = ["roles/storage.objectUser", "roles/storage.legacyBucketReader"]
    collector = ["roles/storage.objectViewer"]
    live      = ["roles/storage.objectViewer"]
    predictor = ["roles/storage.objectViewer"]
  }

  on_dataset = {
    daemon = "roles/bigquery.dataViewer"
    run    = "roles/bigquery.dataEditor"
  }

  # The event function calls the webserver that takes reports, Eventarc calls the event function.
  callers = {
    reports   = [google_service_account.of["events"].member]
    events    = [google_service_account.of["trigger"].member]
    webserver = var.viewers
    predictor = var.predictor_is_public ? ["allUsers"] : var.predictor_callers
    live      = var.live_is_public ? ["allUsers"] : var.live_callers
  }
  services = merge(
    { for name, service in google_cloud_run_v2_service.webserver : name => service.name },
    { for service in google_cloud_run_v2_service.live : "live" => service.name },
    {
      events    = google_cloud_run_v2_service.events.name
      predictor = google_cloud_run_v2_service.predictor.name
    },
  )
}

resource "google_service_account" "of" {
  for_each     = local.accounts
  account_id   = "mbta-${each.key}"
  display_name = each.value
}

resource "google_project_iam_member" "account" {
  for_each = merge([for name, roles in local.on_project : { for role in roles : "${name} ${role}" => [name, role] }]...)
  project  = var.project
  role     = each.value[1]
  member   = google_service_account.of[each.value[0]].member
}

resource "google_storage_bucket_iam_member" "models" {
  for_each = merge([for name, roles in local.on_bucket : { for role in roles : "${name} ${role}" => [name, role] }]...)
  bucket   = google_storage_bucket.models.name
  role     = each.value[1]
  member   = google_service_account.of[each.value[0]].member
}

# What sensors and schedules log is kept beside what runs print.
resource "google_storage_bucket_iam_member" "logs" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectUser"
  member = google_service_account.of["daemon"].member
  condition {
    title      = "logs"
    expression = "resource.name.startsWith('projects/_/buckets/${google_storage_bucket.models.name}/objects/logs/')"
  }
}

resource "google_bigquery_dataset_iam_member" "tables" {
  for_each   = local.on_dataset
  dataset_id = google_bigquery_dataset.tables.dataset_id
  role       = each.value
  member     = google_service_account.of[each.key].member
}

resource "google_bigquery_dataset_iam_member" "upstream" {
  for_each   = var.upstream_dataset == null ? toset([]) : toset(["daemon", "run"])
  dataset_id = var.upstream_dataset
  role       = "roles/bigquery.dataViewer"
  member     = google_service_account.of[each.value].member
}

resource "google_secret_manager_secret_iam_member" "database" {
  for_each  = toset(["webserver", "reports", "daemon", "run"])
  secret_id = google_secret_manager_secret.database.id
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.of[each.value].member
}

# No predefined role lets one begin, follow and cancel executions without also changing the job.
resource "google_project_iam_custom_role" "launcher" {
  role_id = "mbtaRunLauncher"
  title   = "Launcher of runs"
  permissions = [
    "run.executions.cancel",
    "run.executions.get",
    "run.executions.list",
    "run.jobs.run",
    "run.jobs.runWithOverrides",
  ]
}

resource "google_cloud_run_v2_job_iam_member" "launcher" {
  for_each = toset(var.ui_is_read_only ? ["daemon"] : ["daemon", "webserver"])
  name     = google_cloud_run_v2_job.run.name
  location = var.region
  role     = google_project_iam_custom_role.launcher.id
  member   = google_service_account.of[each.value].member
}

resource "google_cloud_run_v2_service_iam_member" "caller" {
  for_each = merge([
    for name, members in local.callers : { for number, member in members : "${name} ${number}" => [name, member] }
    if contains(keys(local.services), name)
  ]...)
  name     = local.services[each.value[0]]
  location = var.region
  role     = "roles/run.invoker"
  member   = each.value[1]
}

# Cloud Storage tells of objects through Pub/Sub.
data "google_storage_project_service_account" "agent" {}

resource "google_project_iam_member" "storage_agent" {
  count   = var.upstream_bucket == null ? 0 : 1
  project = var.project
  role    = "roles/pubsub.publisher"
  member  = data.google_storage_project_service_account.agent.member
}
