# Dagster's runs and events. The password is made while it is applied and handed on; no file and no state has it.
ephemeral "random_password" "dagster" {
  length  = 32
  special = false # it becomes part of an address
}

resource "google_sql_database_instance" "dagster" {
  name             = "mbta-dagster"
  region           = var.region
  database_version = "POSTGRES_17"

  settings {
    edition           = "ENTERPRISE"
    tier              = var.database_tier
    disk_autoresize   = true
    availability_type = "ZONAL"

    # An address that lets nobody in but Cloud SQL's connector, which asks IAM.
    connector_enforcement = "REQUIRED"
    ip_configuration {
      ipv4_enabled = true
    }

    backup_configuration {
      enabled = true
    }
  }

  depends_on = [google_project_service.used]
}

resource "google_sql_database" "dagster" {
  name     = "dagster"
  instance = google_sql_database_instance.dagster.name
}

resource "google_sql_user" "dagster" {
  name                = "dagster"
  instance            = google_sql_database_instance.dagster.name
  password_wo         = ephemeral.random_password.dagster.result
  password_wo_version = var.password_version
}

resource "google_secret_manager_secret" "database" {
  secret_id = "mbta-dagster-database"
  replication {
    auto {}
  }
  depends_on = [google_project_service.used]
}

resource "google_secret_manager_secret_version" "database" {
  secret                 = google_secret_manager_secret.database.id
  secret_data_wo_version = var.password_version
  secret_data_wo = join("", [
    "postgresql+psycopg2://dagster:${ephemeral.random_password.dagster.result}@/dagster",
    "?host=/cloudsql/${google_sql_database_instance.dagster.connection_name}",
  ])
}
