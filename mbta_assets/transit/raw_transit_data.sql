-- Point-in-time join: one row for each vehicle update and each stop 1, 3, 5 and 10 stops ahead of it, counted
-- along the trip by scheduled time, with the observed arrival as the label. BigQuery dialect.
--
-- Reads `vehicle`, `trip`, `stop` and `schedule` for @service_date. The other parameters are constants of
-- `plausibility`, `formulas` and `service_day`, which are filled in when the statement is rendered.
-- No column but the label depends on anything after the row's `time_stamp`, nor does the existence of the row.
WITH service_day AS (
  SELECT
    TIMESTAMP_SUB(TIMESTAMP(DATETIME(@service_date, TIME '12:00:00'), @time_zone), INTERVAL 12 HOUR) AS start_time
),

-- Scheduled times far from the service day are missing. Added and non-revenue trips have no meaningful schedule, so
-- that no arrival of theirs is predicted.
plausible_stop AS (
  SELECT
    NULLIF(TRIM(s.trip_id, @blanks), '') AS trip_id,
    NULLIF(TRIM(s.stop_id, @blanks), '') AS stop_id,
    IF(
      s.arrival_time >= TIMESTAMP_ADD(d.start_time, INTERVAL @min_scheduled_hours HOUR)
      AND s.arrival_time < TIMESTAMP_ADD(d.start_time, INTERVAL @max_scheduled_hours HOUR),
      s.arrival_time,
      NULL
    ) AS arrival_time,
    IF(
      s.departure_time >= TIMESTAMP_ADD(d.start_time, INTERVAL @min_scheduled_hours HOUR)
      AND s.departure_time < TIMESTAMP_ADD(d.start_time, INTERVAL @max_scheduled_hours HOUR),
      s.departure_time,
      NULL
    ) AS departure_time,
    s.stop_sequence
  FROM schedule AS s
  CROSS JOIN service_day AS d
  WHERE s.service_date = @service_date
),

scheduled_stop AS (
  SELECT trip_id, stop_id, arrival_time, departure_time, stop_sequence
  FROM plausible_stop
  WHERE
    trip_id IS NOT NULL
    AND stop_id IS NOT NULL
    AND COALESCE(arrival_time, departure_time) IS NOT NULL
    AND NOT STARTS_WITH(trip_id, 'ADDED-')
    AND NOT STARTS_WITH(trip_id, 'NONREV-')
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY trip_id, stop_id
    ORDER BY COALESCE(arrival_time, departure_time), stop_sequence, arrival_time, departure_time
  ) = 1
),

-- Stop times in the order of their times; stop_sequence only breaks ties, since a trip's last stop may have a 1.
ordered_stop AS (
  SELECT
    trip_id,
    stop_id,
    arrival_time,
    departure_time,
    ROW_NUMBER() OVER (
      PARTITION BY trip_id
      ORDER BY
        COALESCE(arrival_time, departure_time),
        arrival_time IS NOT NULL,
        departure_time IS NULL,
        stop_sequence,
        stop_id
    ) AS position
  FROM scheduled_stop
),

-- A trip does not arrive at its origin: some timetables give an arrival there, others do not.
stop_time AS (
  SELECT
    trip_id,
    stop_id,
    IF(position = 1, NULL, arrival_time) AS arrival_time,
    IF(position = 1, COALESCE(departure_time, arrival_time), departure_time) AS departure_time,
    position,
    LAG(COALESCE(departure_time, arrival_time)) OVER (PARTITION BY trip_id ORDER BY position) AS previous_departure
  FROM ordered_stop
),

trip_time AS (
  SELECT
    trip_id,
    MIN(IF(position = 1, departure_time, NULL)) AS first_time,
    MAX(COALESCE(arrival_time, departure_time)) AS last_time
  FROM stop_time
  GROUP BY trip_id
),

-- A position out of range or at null island is missing.
named_stop AS (
  SELECT
    NULLIF(TRIM(p.id, @blanks), '') AS id,
    p.name,
    p.platform_name,
    IF(
      ABS(p.latitude) <= @max_latitude
      AND ABS(p.longitude) <= @max_longitude
      AND (ABS(p.latitude) >= @null_island_degrees OR ABS(p.longitude) >= @null_island_degrees),
      p.latitude,
      NULL
    ) AS latitude,
    IF(
      ABS(p.latitude) <= @max_latitude
      AND ABS(p.longitude) <= @max_longitude
      AND (ABS(p.latitude) >= @null_island_degrees OR ABS(p.longitude) >= @null_island_degrees),
      p.longitude,
      NULL
    ) AS longitude,
    NULLIF(TRIM(p.parent_station, @blanks), '') AS parent_station
  FROM stop AS p
  WHERE p.service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY NULLIF(TRIM(p.id, @blanks), '')
    ORDER BY p.name, p.platform_name, p.latitude, p.longitude, p.parent_station
  ) = 1
),

-- The first stop of each trip in each station that it serves: a report at any other platform there counts for it.
station_stop AS (
  SELECT t.trip_id, s.parent_station, t.stop_id
  FROM stop_time AS t
  INNER JOIN named_stop AS s ON s.id = t.stop_id
  WHERE s.parent_station IS NOT NULL
  QUALIFY ROW_NUMBER() OVER (PARTITION BY t.trip_id, s.parent_station ORDER BY t.position) = 1
),

network AS (
  SELECT
    MIN(latitude) - @max_degrees_from_stops AS south,
    MAX(latitude) + @max_degrees_from_stops AS north,
    MIN(longitude) - @max_degrees_from_stops AS west,
    MAX(longitude) + @max_degrees_from_stops AS east
  FROM named_stop
),

report AS (
  SELECT
    v.id AS vehicle_id,
    NULLIF(TRIM(v.trip_id, @blanks), '') AS trip_id,
    NULLIF(TRIM(v.stop_id, @blanks), '') AS stop_id,
    v.updated_at AS time_stamp,
    v.current_status,
    v.latitude,
    v.longitude,
    v.route_id,
    v.direction_id,
    ABS(v.latitude) <= @max_latitude
    AND ABS(v.longitude) <= @max_longitude
    AND (ABS(v.latitude) >= @null_island_degrees OR ABS(v.longitude) >= @null_island_degrees)
    AND (
      n.south IS NULL
      OR (v.latitude BETWEEN n.south AND n.north AND v.longitude BETWEEN n.west AND n.east)
    ) AS has_position
  FROM vehicle AS v
  CROSS JOIN network AS n
  WHERE v.service_date = @service_date
),

-- A report at a time at which its trip cannot be at the stop is of another run of the trip, has a wrong clock, or is of
-- a vehicle that is assigned to another trip's slot: one hours from the trip's scheduled times, one more than 30 minutes
-- before the departure from the previous stop or the arrival at this one, and an arrival more than 12 hours late.
vehicle_update AS (
  SELECT
    v.vehicle_id,
    v.trip_id,
    t.stop_id,
    t.position,
    t.arrival_time,
    t.departure_time,
    t.previous_departure,
    v.time_stamp,
    v.current_status,
    IF(v.has_position, v.latitude, NULL) AS latitude,
    IF(v.has_position, v.longitude, NULL) AS longitude,
    v.route_id,
    v.direction_id
  FROM report AS v
  INNER JOIN trip_time AS w ON w.trip_id = v.trip_id
  LEFT JOIN stop_time AS n ON n.trip_id = v.trip_id AND n.stop_id = v.stop_id
  LEFT JOIN named_stop AS s ON s.id = v.stop_id
  LEFT JOIN station_stop AS a ON a.trip_id = v.trip_id AND a.parent_station = s.parent_station
  INNER JOIN stop_time AS t ON t.trip_id = v.trip_id AND t.stop_id = COALESCE(n.stop_id, a.stop_id)
  WHERE
    v.time_stamp >= TIMESTAMP_SUB(w.first_time, INTERVAL @max_hours_from_trip HOUR)
    AND v.time_stamp <= TIMESTAMP_ADD(w.last_time, INTERVAL @max_hours_from_trip HOUR)
    AND COALESCE(
      v.time_stamp >= TIMESTAMP_SUB(
        COALESCE(IF(v.current_status = 'STOPPED_AT', t.arrival_time, NULL), t.previous_departure),
        INTERVAL @max_early_seconds SECOND
      ),
      TRUE
    )
    AND COALESCE(
      v.current_status != 'STOPPED_AT'
      OR v.time_stamp <= TIMESTAMP_ADD(t.arrival_time, INTERVAL @max_late_seconds SECOND),
      TRUE
    )
),

-- The first STOPPED_AT of a trip at a stop is its arrival; later ones belong to the same stop visit.
arrival AS (
  SELECT trip_id, stop_id, MIN(time_stamp) AS arrived_at
  FROM vehicle_update
  WHERE current_status = 'STOPPED_AT'
  GROUP BY trip_id, stop_id
),

-- The position of each update along its trip. Of several statuses of a vehicle at the same time the one furthest
-- along counts, which also removes duplicates.
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
    IF(u.current_status = 'STOPPED_AT', u.position + 1, u.position) AS next_position,
    IF(
      u.current_status = 'STOPPED_AT', COALESCE(u.departure_time, u.arrival_time), u.previous_departure
    ) AS scheduled_last_departure
  FROM vehicle_update AS u
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY u.vehicle_id, u.trip_id, u.time_stamp
    ORDER BY
      IF(u.current_status = 'STOPPED_AT', u.position + 1, u.position) DESC,
      u.current_status,
      u.latitude,
      u.longitude
  ) = 1
),

named_trip AS (
  SELECT NULLIF(TRIM(p.id, @blanks), '') AS id, p.name, p.route_id, p.direction_id
  FROM trip AS p
  WHERE p.service_date = @service_date
  QUALIFY ROW_NUMBER() OVER (
    PARTITION BY NULLIF(TRIM(p.id, @blanks), '')
    ORDER BY p.name, p.route_id, p.direction_id
  ) = 1
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
  a.arrived_at AS actual_arrival_time
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
