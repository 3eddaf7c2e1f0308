-- Point-in-time join: one row for each vehicle update and each stop 1, 3, 5 and 10 stops ahead of it, counted
-- along the trip by scheduled time, with the observed arrival as the label. BigQuery dialect.
--
-- Reads `vehicle`, `trip`, `stop`, `schedule` and `platform_alias` (alias, stop_id) for @service_date.
-- No column but the label depends on anything after the row's `time_stamp`, nor does the existence of the row.
WITH vehicle_update AS (
  SELECT
    v.id AS vehicle_id,
    v.trip_id,
    COALESCE(a.stop_id, v.stop_id) AS stop_id,
    v.updated_at AS time_stamp,
    v.current_status,
    v.latitude,
    v.longitude,
    v.route_id,
    v.direction_id
  FROM vehicle AS v
  LEFT JOIN platform_alias AS a ON a.alias = v.stop_id
  WHERE v.service_date = @service_date AND v.trip_id IS NOT NULL AND v.stop_id IS NOT NULL
),

-- The first STOPPED_AT of a trip at a stop is its arrival; later ones belong to the same stop visit.
arrival AS (
  SELECT trip_id, stop_id, MIN(time_stamp) AS arrived_at
  FROM vehicle_update
  WHERE current_status = 'STOPPED_AT'
  GROUP BY trip_id, stop_id
),

-- Added and non-revenue trips have no meaningful schedule, so that no arrival of theirs is predicted.
scheduled_stop AS (
  SELECT
    s.trip_id,
    COALESCE(a.stop_id, s.stop_id) AS stop_id,
    s.arrival_time,
    s.departure_time,
    s.stop_sequence
  FROM schedule AS s
  LEFT JOIN platform_alias AS a ON a.alias = s.stop_id
  WHERE
    s.service_date = @service_date
    AND COALESCE(s.arrival_time, s.departure_time) IS NOT NULL
    AND NOT STARTS_WITH(s.trip_id, 'ADDED-')
    AND NOT STARTS_WITH(s.trip_id, 'NONREV-')
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY s.trip_id, COALESCE(a.stop_id, s.stop_id)
    ORDER BY COALESCE(s.arrival_time, s.departure_time), s.stop_sequence
  ) = 1
),

-- Stop times in the order of their times; stop_sequence only breaks ties, since a trip's last stop may have a 1.
stop_time AS (
  SELECT
    trip_id,
    stop_id,
    arrival_time,
    departure_time,
    ROW_NUMBER() OVER along AS position,
    LAG(COALESCE(departure_time, arrival_time)) OVER along AS previous_departure
  FROM scheduled_stop
  WINDOW along AS (
    PARTITION BY trip_id
    ORDER BY
      COALESCE(arrival_time, departure_time),
      arrival_time IS NOT NULL,
      departure_time IS NULL,
      stop_sequence,
      stop_id
  )
),

-- The position of each update along its trip. Of several statuses of a vehicle at the same time the one furthest
-- along counts, which also removes duplicates. A vehicle more than 30 minutes ahead of its schedule is assigned to
-- another trip's slot and left out.
located AS (
  SELECT
    u.vehicle_id,
    u.trip_id,
    u.stop_id AS current_stop_id,
    u.time_stamp,
    u.current_status,
    u.latitude,
    u.longitude,
    u.route_id,
    u.direction_id,
    IF(u.current_status = 'STOPPED_AT', t.position + 1, t.position) AS next_position,
    IF(
      u.current_status = 'STOPPED_AT', COALESCE(t.departure_time, t.arrival_time), t.previous_departure
    ) AS scheduled_last_departure
  FROM vehicle_update AS u
  INNER JOIN stop_time AS t ON t.trip_id = u.trip_id AND t.stop_id = u.stop_id
  WHERE
    t.position = 1
    OR COALESCE(
      TIMESTAMP_DIFF(
        IF(u.current_status = 'STOPPED_AT', t.arrival_time, t.previous_departure), u.time_stamp, SECOND
      ),
      0
    ) <= 1800
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY u.vehicle_id, u.trip_id, u.time_stamp
    ORDER BY
      IF(u.current_status = 'STOPPED_AT', t.position + 1, t.position) DESC,
      u.current_status,
      u.latitude,
      u.longitude
  ) = 1
),

named_stop AS (
  SELECT COALESCE(a.stop_id, p.id) AS id, p.name, p.platform_name, p.latitude, p.longitude
  FROM stop AS p
  LEFT JOIN platform_alias AS a ON a.alias = p.id
  WHERE p.service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY COALESCE(a.stop_id, p.id)
    ORDER BY a.alias, p.name, p.platform_name, p.latitude, p.longitude
  ) = 1
),

named_trip AS (
  SELECT id, name, route_id, direction_id
  FROM trip
  WHERE service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY name, route_id, direction_id) = 1
)

SELECT
  @service_date AS service_date,
  u.time_stamp,
  u.vehicle_id,
  u.current_status,
  u.current_stop_id,
  u.next_position - 1 AS stops_behind,
  u.scheduled_last_departure,
  u.latitude AS current_latitude,
  u.longitude AS current_longitude,
  CAST(stops_ahead AS INT64) AS stops_ahead,
  t.stop_id,
  d.name AS destination,
  d.platform_name,
  d.latitude AS destination_latitude,
  d.longitude AS destination_longitude,
  u.trip_id,
  n.name AS trip_name,
  COALESCE(u.route_id, n.route_id) AS route_id,
  COALESCE(u.direction_id, n.direction_id) AS direction_id,
  t.departure_time AS scheduled_departure,
  t.arrival_time AS scheduled_arrival,
  -- An arrival more than 30 minutes early belongs to another trip; the label is missing.
  IF(TIMESTAMP_DIFF(t.arrival_time, a.arrived_at, SECOND) > 1800, NULL, a.arrived_at) AS actual_arrival_time
FROM located AS u
CROSS JOIN UNNEST([1, 3, 5, 10]) AS stops_ahead
INNER JOIN stop_time AS t ON t.trip_id = u.trip_id AND t.position = u.next_position + stops_ahead - 1
LEFT JOIN arrival AS a ON a.trip_id = t.trip_id AND a.stop_id = t.stop_id
LEFT JOIN named_stop AS d ON d.id = t.stop_id
LEFT JOIN named_trip AS n ON n.id = u.trip_id
WHERE
  -- A vehicle waits at the origin for its layover, and an arrival in the past is not predicted.
  t.position > 1
  AND t.arrival_time IS NOT NULL
  AND (a.arrived_at IS NULL OR u.time_stamp < a.arrived_at)
ORDER BY u.time_stamp, u.vehicle_id, u.trip_id, stops_ahead
